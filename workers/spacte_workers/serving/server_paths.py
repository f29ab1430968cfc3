"""Keeps the folders of this machine out of what callers read: a path becomes its last name."""

import re
from pathlib import Path

_PATH = re.compile(r"(?:\bfile://|(?<![\w/.]))/(?!/)[^\s'\"]*[^\s'\".,;:()\]]")
"""An absolute path; the path of another URL is none, since a host stands before it."""


def without_paths(sentence: str, folder: Path | None = None) -> str:
    """A sentence for callers, with the last name of each path alone.

    Args:
        sentence: perhaps with absolute paths.
        folder: one whose path may have spaces, and be relative.
    """
    if folder is not None:
        for path in sorted({str(folder), str(folder.resolve())}, key=len, reverse=True):
            sentence = sentence.replace(f"{path}/", "").replace(path, folder.name)
    return _PATH.sub(lambda found: found[0].rpartition("/")[2], sentence)


def data_set_name(source: str | None) -> str | None:
    """What a model was trained on, as callers may read it: `folder:/data/birds` is `folder:birds`."""
    kind, colon, place = (source or "").partition(":")
    if not colon or kind == "hf":
        return source
    return f"{kind}:{Path(place).name}"
