"""What answers from the first moment on: health, until the gateway itself is imported and made.

Its libraries take a second to import, longer on a busy machine, and whoever looks after the process wants to know at
once that it lives. So this uses none of them.
"""

import json
from typing import Any

RETRY_AFTER_S = 1  # chosen: the imports take about that


class Opening:
    """An ASGI application that passes everything on to `app`, once that is there."""

    app: Any = None

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        """Answer `/livez` with 200, `/readyz` and all else with 503."""
        if self.app is not None:
            await self.app(scope, receive, send)
            return
        status, kind, body = _answer(scope["path"])
        headers = [(b"content-type", kind), (b"cache-control", b"no-store"), (b"x-content-type-options", b"nosniff")]
        if status != 200:
            headers.append((b"retry-after", b"%d" % RETRY_AFTER_S))
        await send({"type": "http.response.start", "status": status, "headers": headers})
        await send({"type": "http.response.body", "body": json.dumps(body).encode()})


def _answer(path: str) -> tuple[int, bytes, dict[str, Any]]:
    sentence = "The service is starting: try again in a moment."
    if path == "/livez":
        return 200, b"application/json", {"status": "ok", "checks": {}}
    if path == "/v2/health/live":
        return 200, b"application/json", {"live": True}
    if path == "/readyz":
        return 503, b"application/json", {"status": "unavailable", "checks": {"gateway": sentence}}
    problem = {"type": "about:blank", "title": "The model is still loading", "status": 503, "detail": sentence}
    problem |= {"code": "model_loading", "errors": [], "retry_after_s": float(RETRY_AFTER_S)}
    return 503, b"application/problem+json", problem
