"""An mkdocs hook: formulas become MathML when the site is built, so that reading it needs no script."""

import re

from latex2mathml.converter import convert

INLINE = re.compile(r"\\\((.+?)\\\)", re.DOTALL)
DISPLAY = re.compile(r"\\\[(.+?)\\\]", re.DOTALL)


def on_page_markdown(markdown: str, **_: object) -> str:
    """Replace each formula between \\( \\) or \\[ \\] by MathML."""
    markdown = DISPLAY.sub(lambda found: f"\n\n{convert(found[1], display='block')}\n\n", markdown)
    return INLINE.sub(lambda found: convert(found[1]), markdown)
