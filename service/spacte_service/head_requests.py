"""HEAD wherever GET is: the same status and headers, without the body (RFC 9110, 9.3.2)."""

import asyncio
from dataclasses import dataclass

from starlette.types import ASGIApp, Message, Receive, Scope, Send


@dataclass(frozen=True)
class HeadRequests:
    """ASGI middleware that has HEAD answered as GET, and keeps the body back."""

    app: ASGIApp

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request; all that are not HEAD pass unchanged."""
        if scope["type"] != "http" or scope["method"] != "HEAD":
            await self.app(scope, receive, send)
            return
        answered = asyncio.Event()

        async def send_head(message: Message) -> None:
            if answered.is_set():
                return
            if message["type"] == "http.response.body":
                answered.set()
                message = {"type": "http.response.body", "body": b"", "more_body": False}
            await send(message)

        # The server goes by its own scope, where the method stays HEAD.
        as_get = {**scope, "method": "GET"}
        work = asyncio.ensure_future(self.app(as_get, receive, send_head))
        waiting = asyncio.create_task(answered.wait())
        try:
            await asyncio.wait({work, waiting}, return_when=asyncio.FIRST_COMPLETED)
            if work.done():
                await work
        finally:
            for task in (work, waiting):  # a stream would go on without end
                task.cancel()
            await asyncio.gather(work, waiting, return_exceptions=True)
            if "route" in as_get:
                scope["route"] = as_get["route"]
