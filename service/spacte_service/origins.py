"""Keeps the web pages of other origins out, which could reach a gateway on their reader's machine."""

from collections.abc import Collection
from dataclasses import dataclass
from urllib.parse import urlsplit

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Receive, Scope, Send

from .problems import ProblemError, ProblemResponse

SAFE_METHODS = ("GET", "HEAD", "OPTIONS")
PREFLIGHT = "access-control-request-method"
"""A browser's question whether another origin's page may send a request; sent with `OPTIONS`."""


@dataclass(frozen=True)
class OriginCheck:
    """ASGI middleware that refuses requests for other host names, and changes that other origins ask for.

    A page whose name is made to point to this machine (DNS rebinding) still sends its own name as `Host`. A
    page elsewhere that posts a form here sends its own `Origin`. Only browsers send an `Origin`.
    """

    app: ASGIApp
    hosts: Collection[str]  # names that the service goes by, in lower case, without port; empty for any
    origins: Collection[str]  # that may call from elsewhere (CORS)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass the request on, or answer 403."""
        if scope["type"] != "http" or (refusal := self._refusal(scope)) is None:
            await self.app(scope, receive, send)
            return
        await ProblemResponse(ProblemError("forbidden", refusal), scope)(scope, receive, send)

    def _refusal(self, scope: Scope) -> str | None:
        headers = Headers(scope=scope)
        host = headers.get("host", "")
        if self.hosts and host and _name(host) not in self.hosts:
            return "This service goes by another host name; use it, or have SPACTE_ALLOWED_HOSTS set."
        origin = headers.get("origin")
        harmless = scope["method"] in SAFE_METHODS and PREFLIGHT not in headers
        if origin is None or harmless or origin in self.origins:
            return None
        if origin.partition("://")[2].lower() != host.lower():
            return "Pages of this origin may not call here; have the operator add it to SPACTE_CORS_ORIGINS."
        return None


def _name(host: str) -> str | None:
    """The host name without its port; None where it is none."""
    try:
        return urlsplit(f"//{host}").hostname
    except ValueError:
        return None
