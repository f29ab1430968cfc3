"""`GET /livez` and `GET /readyz`, for load balancers."""

from fastapi import APIRouter
from fastapi.responses import JSONResponse

from spacte_client.types import Health
from spacte_service.dependencies import Readiness

router = APIRouter(tags=["health"])


@router.get("/livez")
async def livez() -> Health:
    """200 while the event loop turns."""
    return Health(status="ok")


@router.get(
    "/readyz",
    responses={503: {"model": Health, "description": "Not ready: the checks say why."}},
    response_model=Health,
)
async def readyz(checks: Readiness) -> Health | JSONResponse:
    """200 where a certify request would be answered now."""
    if is_ready(checks):
        return Health(status="ok", checks=checks)
    return JSONResponse(Health(status="unavailable", checks=checks).model_dump(), 503)


def is_ready(checks: dict[str, str]) -> bool:
    """Whether a request would be answered now."""
    return all(state == "ok" for state in checks.values())
