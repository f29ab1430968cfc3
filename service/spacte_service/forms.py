"""Multipart forms, read to their end or refused: a form that is cut off leaves no open file behind."""

import asyncio
from collections.abc import AsyncGenerator
from contextlib import aclosing

from fastapi import Request
from starlette.datastructures import FormData
from starlette.formparsers import MultiPartException, MultiPartParser

from .problems import ProblemError

MOST_FILES = 256  # chosen: more images than a request may have by default; each open file takes a descriptor
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
            limits = {"max_files": MOST_FILES, "max_fields": MOST_FIELDS}
            return await _WholeForm(request.headers, stream, **limits).parse()
    except MultiPartException as error:
        reason = error.message[:1].lower() + error.message[1:].rstrip(".")
        sentence = f"The form cannot be read: {reason}; check how it was encoded."
        raise ProblemError("bad_request", sentence) from None


async def _pieces(request: Request, idle_s: float | None) -> AsyncGenerator[bytes]:
    async with aclosing(request.stream()) as stream:
        while True:
            async with asyncio.timeout(idle_s):
                piece = await anext(stream, None)
            if piece is None:
                return
            yield piece
