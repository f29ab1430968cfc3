"""Files that the service may read by itself: only below folders that the operator named, links followed."""

import os
from collections.abc import Sequence
from pathlib import Path
from urllib.parse import unquote, urlsplit

from .base import InputError


def resolve_uri(uri: str, roots: Sequence[Path]) -> Path:
    """The file of a `file:` URI or absolute path, once it is seen to lie below one of `roots`.

    Links are followed first, so that none leads out of a root. The answer for a file outside is that for a missing one,
    so that nobody learns which files there are.

    Raises:
        InputError: another scheme, no file, or one outside the roots.
    """
    if not roots:
        raise InputError(
            "This service reads no files of its own: upload the file instead, or have the operator allow a folder."
        )
    path = uri if uri.startswith("/") else _path_of(uri)
    if "\0" in path:
        raise InputError("A path holds no NUL: give the path of a file.")
    allowed = ", ".join(f"file://{root}" for root in roots)
    nowhere = InputError(f"There is no file {uri[:200]!r} below what may be read here ({allowed[:400]}).")
    try:
        real = Path(os.path.realpath(path, strict=True))
    except (OSError, ValueError) as error:
        raise nowhere from error
    if not real.is_file() or not any(real.is_relative_to(os.path.realpath(root)) for root in roots):
        raise nowhere
    return real


def _path_of(uri: str) -> str:
    try:
        parts = urlsplit(uri)
    except ValueError as error:
        raise InputError("A file URI is written file:///path/to/file: this one is none.") from error
    if parts.scheme not in ("", "file"):
        raise InputError(
            f"URIs of scheme {parts.scheme[:20]!r} are not read here: use one that is, or upload the file."
        )
    path = unquote(parts.path)
    whole = parts.netloc in ("", "localhost") and path.startswith("/") and not parts.query and not parts.fragment
    if not (parts.scheme and whole):
        raise InputError("A file URI is written file:///path/to/file: give the whole path and nothing else.")
    return path
