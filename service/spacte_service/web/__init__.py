"""The pages that people look at: static files of the gateway, with no build step and no other origin."""

from pathlib import Path

from fastapi import APIRouter, FastAPI
from fastapi.responses import FileResponse
from fastapi.staticfiles import StaticFiles

STATIC = Path(__file__).parent / "static"

# Scripts, styles and requests of this origin only; pictures also from memory, where the page makes them.
CONTENT_SECURITY_POLICY = "; ".join(
    [
        "default-src 'none'",
        "script-src 'self'",
        "style-src 'self'",
        "img-src 'self' blob: data:",
        "connect-src 'self'",
        "base-uri 'none'",
        "form-action 'none'",
        "frame-ancestors 'none'",
    ]
)
HEADERS = {"Content-Security-Policy": CONTENT_SECURITY_POLICY, "Cache-Control": "no-cache"}

router = APIRouter(include_in_schema=False)


@router.get("/")
async def playground() -> FileResponse:
    """Certify an image and watch the proof grow."""
    return FileResponse(STATIC / "index.html", headers=HEADERS)


@router.get("/jobs")
async def jobs() -> FileResponse:
    """Jobs, their curves and their images."""
    return FileResponse(STATIC / "jobs.html", headers=HEADERS)


def add_web(app: FastAPI) -> None:
    """Serve the pages at `/` and `/jobs`, and what they load below `/web`."""
    app.include_router(router)
    app.mount("/web", StaticFiles(directory=STATIC), name="web")
