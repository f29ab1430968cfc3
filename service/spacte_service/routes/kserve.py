"""Health and metadata under the paths of the Open Inference Protocol v2, for platforms that look there."""

from typing import Any

from fastapi import APIRouter, Depends
from fastapi.responses import JSONResponse

from spacte_service.auth import identify
from spacte_service.dependencies import Readiness, TheModels

from .descriptions import problems
from .health import is_ready

router = APIRouter(prefix="/v2", tags=["kserve"])

NOT_READY: dict[int | str, dict[str, Any]] = {503: {"description": "Not ready."}}


@router.get("/health/live")
async def live() -> dict[str, bool]:
    """200 while the event loop turns."""
    return {"live": True}


@router.get("/health/ready", responses=NOT_READY, response_model=dict[str, bool])
async def ready(checks: Readiness) -> JSONResponse:
    """As `/readyz`."""
    return JSONResponse({"ready": is_ready(checks)}, 200 if is_ready(checks) else 503)


@router.get("/models/{name}", dependencies=[Depends(identify)], responses=problems(401, 404, 429))
async def metadata(name: str, models: TheModels) -> dict[str, Any]:
    """A model's tensors, as one noisy sample has them."""
    model = models.get(name)
    return {
        "name": model.name,
        "versions": [model.version],
        "platform": "spacte",
        "inputs": [{"name": "image", "datatype": "UINT8", "shape": model.input_shape}],
        "outputs": [{"name": "counts", "datatype": "INT64", "shape": [model.num_classes]}],
    }


@router.get(
    "/models/{name}/ready",
    dependencies=[Depends(identify)],
    responses=problems(401, 404, 429) | NOT_READY,
    response_model=dict[str, Any],
)
async def model_ready(name: str, models: TheModels) -> JSONResponse:
    """200 where this model answers."""
    is_loaded = models.get(name).state == "ready"
    return JSONResponse({"name": name, "ready": is_loaded}, 200 if is_loaded else 503)
