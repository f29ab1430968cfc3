"""`GET /livez` and `GET /readyz`, for load balancers."""

from fastapi import APIRouter
from fastapi.responses import JSONResponse

from spacte_client.types import Health
from spacte_service.gateway import TheGateway

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
async def readyz(gateway: TheGateway) -> Health | JSONResponse:
    """200 where a certify request would be answered now."""
    checks = gateway.readiness()
    if gateway.is_ready():
        return Health(status="ok", checks=checks)
    return JSONResponse(Health(status="unavailable", checks=checks).model_dump(), 503)
