"""Multipart forms, read to their end or refused: a form that is cut off leaves no open file behind."""

import asyncio
import codecs
from collections.abc import AsyncGenerator
from contextlib import aclosing

from fastapi import Request
from python_multipart.multipart import parse_options_header
from starlette.datastructures import FormData, UploadFile
from starlette.formparsers import MultiPartException, MultiPartParser

from .problems import ProblemError, field_error

MOST_FILES = 256  # chosen: more images than a request may have by default; each open file takes a descriptor
CHARSETS = ("utf-8", "ascii", "iso8859-1")
"""Of names in a form, as Python calls them: what RFC 7578 and older clients use. Python knows others that are none."""
MOST_FIELDS = 8  # chosen: `params` and a few more, which are refused by name


class _WholeForm(MultiPartParser):
    """Starlette's parser, which also knows whether the closing boundary has come."""

    whole = False

    def on_end(self) -> None:
        self.whole = True

    async def parse(self) -> FormData:
        """The form. Raises MultiPartException: it is malformed or cut off."""
        form = await super().parse()
        if not self.whole:
            for file in self._files_to_close_on_error:
                file.close()
            raise MultiPartException("its closing boundary is missing")
        return form


async def parse_form(request: Request, idle_s: float | None = None) -> FormData:
    """The request's multipart form; the caller closes it. The next piece of the body may take `idle_s`.

    Raises:
        ProblemError: 400, it is malformed, cut off or has too many parts.
        TimeoutError: nothing came for `idle_s`.
    """
    try:
        async with aclosing(_pieces(request, idle_s)) as stream:
            _check_charset(request)
            limits = {"max_files": MOST_FILES, "max_fields": MOST_FIELDS}
            form = await _WholeForm(request.headers, stream, **limits).parse()
    except MultiPartException as error:
        reason = error.message[:1].lower() + error.message[1:].rstrip(".")
        sentence = f"The form cannot be read: {reason}; check how it was encoded."
        raise ProblemError("bad_request", sentence) from None
    for name, value in form.multi_items():
        if "\0" in name or (isinstance(value, UploadFile) and "\0" in (value.filename or "")):
            await form.close()
            raise field_error("", "A name in the form has a NUL character; leave that out.")
    return form


def _check_charset(request: Request) -> None:
    """See that the form's names can be read. Raises ProblemError: 415."""
    charset = parse_options_header(request.headers["content-type"])[1].get(b"charset", b"utf-8").decode("latin-1")
    try:
        known = codecs.lookup(charset).name in CHARSETS
    except (LookupError, ValueError):  # a name with NUL is a ValueError
        known = False
    if not known:
        sentence = f"Names in a form are not read in the charset {charset[:20]!r}; write them in UTF-8."
        raise ProblemError("unsupported_media_type", sentence)


async def _pieces(request: Request, idle_s: float | None) -> AsyncGenerator[bytes]:
    async with aclosing(request.stream()) as stream:
        while True:
            async with asyncio.timeout(idle_s):
                piece = await anext(stream, None)
            if piece is None:
                return
            yield piece
