"""An mkdocs hook: formulas become MathML when the site is built, so that reading it needs no script."""

import re

from latex2mathml.converter import convert

INLINE = re.compile(r"\\\((.+?)\\\)", re.DOTALL)
WRAPPED = re.compile(r"(?<=\S)\n[ \t]*(?=\\\()")
"""A line break within a paragraph before a formula: a line that begins with a tag would end the paragraph."""

DISPLAY = re.compile(r"\\\[(.+?)\\\]", re.DOTALL)


def on_page_markdown(markdown: str, **_: object) -> str:
    """Replace each formula between \\( \\) or \\[ \\] by MathML."""
    markdown = DISPLAY.sub(lambda found: f"\n\n{convert(found[1], display='block')}\n\n", markdown)
    return INLINE.sub(lambda found: convert(found[1]), WRAPPED.sub(" ", markdown))
