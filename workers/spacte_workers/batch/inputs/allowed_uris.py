"""What a URI of an input may name: files below folders that the operator named, and files elsewhere below prefixes.

Links are followed before a path is compared with a folder. Files elsewhere are of any scheme that fsspec has a driver
for. Such a file is copied here before it is opened. So all drivers of a job read the same bytes, and neither they nor
the samplers need access to the place.
"""

import os
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

from .base import InputError, MissingInputError

PIECE = 1 << 20
"""Bytes read at once. Chosen: large enough for full speed over a network."""

EXTRAS = {"s3": "s3", "s3a": "s3"}
"""Extras of this distribution that bring the driver of a scheme."""

_URI = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*):")


async def _refuse_redirection(response: Any) -> None:
    if 300 <= response.status < 400:
        raise FileNotFoundError("a redirection, which could lead anywhere")


_NO_REDIRECTION = {"allow_redirects": False, "client_kwargs": {"raise_for_status": _refuse_redirection}}
_OPTIONS: dict[str, dict[str, Any]] = {"http": _NO_REDIRECTION, "https": _NO_REDIRECTION}


def scheme_of(uri: str) -> str:
    """The scheme of a URI, in small letters; empty for a path."""
    found = _URI.match(uri)
    return found[1].lower() if found else ""


def load_driver(scheme: str) -> None:
    """See that files of a scheme can be read.

    Raises:
        InputError: fsspec does not know the scheme, or its driver is not installed.
    """
    from fsspec.registry import get_filesystem_class

    try:
        get_filesystem_class(scheme)
    except ValueError:
        raise InputError(f"There is no driver for {scheme[:20]}: URIs: use a scheme that fsspec knows.") from None
    except ImportError as error:
        extra = EXTRAS.get(scheme)
        how = f"pip install 'spacte-workers[{extra}]'" if extra else str(error).rstrip(".")
        raise InputError(f"The driver for {scheme}: URIs is not installed here: {how}.") from None


def parts_of(uri: str) -> tuple[str, ...]:
    """Scheme, host or bucket, and the names of the path, of a URI whose place is plain to see.

    Raises:
        InputError: it carries credentials or a query, climbs with `..`, or chains several schemes.
    """
    scheme = scheme_of(uri)
    before, _, place = uri.partition("://")
    if not scheme or before.lower() != scheme or not place.strip("/"):
        raise InputError("A URI is written scheme://place/path: give the whole of it.")
    plain = place
    while plain != (plain := unquote(plain)):  # until nothing is hidden any more
        pass
    if "@" in plain.split("/")[0]:
        raise InputError("A URI carries no credentials here: leave out what stands before the @.")
    if "::" in uri or any(mark in plain for mark in "?#\\") or not plain.isprintable():
        raise InputError("A URI names one file: leave out `::`, `?`, `#`, `\\` and what cannot be printed.")
    if any(part in ("", ".", "..") for part in plain.rstrip("/").split("/")[1:]):
        raise InputError("A URI names its file straight: leave out `//`, `.` and `..`.")
    return (scheme, *place.rstrip("/").split("/"))


def pieces(
    uri: str, roots: Sequence[str] | None, most_bytes: int | None = None, remedy: str = "try again, or upload the file"
) -> Iterator[bytes]:
    """The bytes of the file that a URI names, in order.

    Args:
        uri: of a scheme that fsspec has a driver for, which takes credentials from the environment or from fsspec's own
            configuration.
        roots: prefixes below which it must lie; None where that is not asked.
        most_bytes: a larger file is refused; None for any size.
        remedy: what may be done where it cannot be read.

    Raises:
        InputError: it is not allowed, not there, too large or cannot be reached.
    """
    from fsspec.core import url_to_fs

    parts = parts_of(uri)
    scheme = parts[0]
    below = "" if roots is None else f" below what may be read here ({', '.join(roots)[:400]})"
    nowhere = MissingInputError(f"There is no file {uri[:200]!r}{below}.")
    folder = parts[:-1]
    if roots is not None and not any(folder[: len(root)] == root for root in map(parts_of, roots)):
        raise nowhere
    load_driver(scheme)
    size = 0
    try:
        system, path = url_to_fs(scheme + uri[len(scheme) :], **_OPTIONS.get(scheme, {}))
        if system.info(path)["type"] != "file":
            raise nowhere
        with system.open(path, "rb") as source:
            while piece := source.read(PIECE):
                size += len(piece)
                if most_bytes is not None and size > most_bytes:
                    raise InputError(f"The file has more than {most_bytes:,} bytes: split it over several jobs.")
                yield piece
    except InputError:
        raise
    except Exception as error:  # a driver raises whatever it likes
        why: BaseException = error
        if isinstance(error, FileNotFoundError):
            # Of a server that does not answer fsspec says that too, with the error of the connection behind it.
            why = error.__cause__ or error
            if isinstance(why, FileNotFoundError) or not isinstance(why, OSError):
                raise nowhere from None
        raise InputError(f"{uri[:200]!r} cannot be read ({type(why).__name__}): {remedy}.") from error


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
