"""`/docs`: the API as a page, drawn in the browser from `/openapi.json`, with nothing from another origin."""

from pathlib import Path

from fastapi import APIRouter, FastAPI
from fastapi.responses import FileResponse
from fastapi.staticfiles import StaticFiles

from spacte_service.web import HEADERS

STATIC = Path(__file__).parent / "static"

router = APIRouter(include_in_schema=False)


@router.get("/docs")
async def docs() -> FileResponse:
    """Every route with its parameters, bodies, answers and problems."""
    return FileResponse(STATIC / "index.html", headers=HEADERS)


def add_reference(app: FastAPI) -> None:
    """Serve the page, and what it loads below `/docs`; sheet and helpers are those of the other pages."""
    app.include_router(router)
    app.mount("/docs", StaticFiles(directory=STATIC), name="docs")
