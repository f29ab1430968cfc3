"""Serves the pages at `/`, `/jobs` and `/docs`, and what they load."""

from collections.abc import Callable, Coroutine
from importlib.resources import files
from pathlib import Path
from typing import Any

from fastapi import FastAPI
from fastapi.responses import FileResponse
from fastapi.staticfiles import StaticFiles

STATIC = Path(__file__).parent / "static"
SWAGGER = Path(str(files("fastapi_offline"))) / "static"
"""Swagger UI's files, as `fastapi-offline` ships them."""

PAGES = {"/": "index.html", "/jobs": "jobs.html", "/docs": "docs.html"}

CONTENT_SECURITY_POLICY = "; ".join(
    [
        "default-src 'none'",
        "script-src 'self'",
        "style-src 'self'",
        "img-src 'self' blob: data:",  # also from memory, where a page makes them
        "connect-src 'self'",
        "base-uri 'none'",
        "form-action 'none'",
        "frame-ancestors 'none'",
    ]
)
HEADERS = {"Content-Security-Policy": CONTENT_SECURITY_POLICY, "Cache-Control": "no-cache"}


def add_pages(app: FastAPI) -> None:
    """Serve the pages, our files below `/web`, and Swagger UI's below `/swagger-ui`."""
    for path, name in PAGES.items():
        app.add_api_route(path, _page(name), include_in_schema=False)
    app.mount("/web", StaticFiles(directory=STATIC), name="web")
    app.mount("/swagger-ui", StaticFiles(directory=SWAGGER), name="swagger-ui")


def _page(name: str) -> Callable[[], Coroutine[Any, Any, FileResponse]]:
    async def page() -> FileResponse:
        return FileResponse(STATIC / name, headers=HEADERS)

    return page
