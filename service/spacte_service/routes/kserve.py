"""The Open Inference Protocol v2, for platforms and clients that speak it: health, metadata, predictions."""

from functools import partial
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Request, Response
from fastapi.responses import JSONResponse

from spacte_service.admission import Arrival
from spacte_service.auth import TheCaller, identify
from spacte_service.dependencies import (
    Readiness,
    TheBodies,
    TheImageRequests,
    TheLimits,
    TheModels,
    TheQuotas,
    TheTasks,
)
from spacte_service.image_requests import ImageRequest
from spacte_service.inference_protocol import (
    INPUT,
    JSON_LENGTH,
    OUTPUTS,
    read_inference,
    read_rows,
    split,
    write_inference,
    write_rows,
)
from spacte_service.version import VERSION
from spacte_workers.votes import most_votes

from .answers import PROBLEMS, all_or_none, arrive, first_for_all
from .descriptions import problems
from .health import is_ready

router = APIRouter(prefix="/v2", tags=["kserve"])

_TENSOR = {"type": "object", "required": ["name", "shape", "datatype"]}
_INFERENCE = {"type": "object", "required": ["inputs"], "properties": {"inputs": {"type": "array", "items": _TENSOR}}}
INFERENCE = {
    "requestBody": {
        "required": True,
        "content": {"application/json": {"schema": _INFERENCE}, "application/octet-stream": {}},
    }
}
"""A body in JSON, or JSON followed by the tensors' bytes."""

NOT_READY: dict[int | str, dict[str, Any]] = {503: {"description": "Not ready."}}


@router.get("/health/live")
async def live() -> dict[str, bool]:
    """200 while the event loop turns."""
    return {"live": True}


@router.get("/health/ready", responses=NOT_READY, response_model=dict[str, bool])
async def ready(checks: Readiness) -> JSONResponse:
    """As `/readyz`."""
    return JSONResponse({"ready": is_ready(checks)}, 200 if is_ready(checks) else 503)


@router.get("")
async def server() -> dict[str, Any]:
    """Who answers, and which extensions of the protocol it knows."""
    return {"name": "spacte", "version": VERSION, "extensions": ["binary_tensor_data"]}


@router.get("/models/{name}", dependencies=[Depends(identify)], responses=problems(400, 401, 404, 429))
async def metadata(name: str, models: TheModels) -> dict[str, Any]:
    """A model's tensors; -1 stands for the number of images."""
    model = models.get(name)
    shapes = {"label": [-1], "counts": [-1, model.num_classes]}
    return {
        "name": model.name,
        "versions": [model.version],
        "platform": "spacte",
        "inputs": [{"name": INPUT, "datatype": "UINT8", "shape": [-1, *model.input_shape]}],
        "outputs": [{"name": output, "datatype": "INT64", "shape": shapes[output]} for output in OUTPUTS],
    }


@router.get(
    "/models/{name}/ready",
    dependencies=[Depends(identify)],
    responses=problems(400, 401, 404, 429) | NOT_READY,
    response_model=dict[str, Any],
)
async def model_ready(name: str, models: TheModels) -> JSONResponse:
    """200 where this model answers."""
    is_loaded = models.get(name).state == "ready"
    return JSONResponse({"name": name, "ready": is_loaded}, 200 if is_loaded else 503)


@router.post("/models/{name}/infer", responses=PROBLEMS, openapi_extra=INFERENCE, response_class=Response)
async def infer(
    name: str,
    request: Request,
    arrival: Annotated[Arrival, Depends(arrive)],
    bodies: TheBodies,
    limits: TheLimits,
    images: TheImageRequests,
    models: TheModels,
    caller: TheCaller,
    tasks: TheTasks,
    quotas: TheQuotas,
) -> Response:
    """Classify images by the smoothed classifier: `label` is -1 where it abstains, and `counts` are the votes.

    `parameters` are those of `/v1/predict`: `n`, `alpha`, `seed` and so on. An image is UINT8, or FP32 in [0, 1].
    """
    model = models.get(name).name
    raw = await bodies.tensors(request)
    text, tensor = split(raw, request.headers.get(JSON_LENGTH))
    read = partial(read_inference, tensor=tensor, model=model, most_images=limits.most_images)
    asked = await bodies.parse(request, read, text)
    bodies.check_limits(asked.params)
    parts = (
        images.predict(ImageRequest(image, asked.params, arrival, request.state.arrived, "/inputs/0", together))
        for image, together in zip(asked.images, first_for_all(asked.images), strict=True)
    )
    with quotas.noises(caller.id, caller.quotas, len(asked.images) * most_votes(asked.params)) as noises:
        predictions = await tasks.run(request, all_or_none(parts))
        noises.drawn = sum(prediction.n for prediction in predictions)
    body, headers = write_inference(asked, predictions)
    return Response(body, headers=headers)


@router.get("/models/{name}/versions/base", dependencies=[Depends(identify)], responses=problems(400, 401, 404, 429))
async def base_metadata(name: str, models: TheModels) -> dict[str, Any]:
    """The tensors of the base classifier, which is asked without noise."""
    model = models.get(name)
    rows = {"name": INPUT, "datatype": "FP32", "shape": [-1, *model.input_shape]}
    logits = {"name": "logits", "datatype": "FP32", "shape": [-1, model.num_classes]}
    about = {"name": model.name, "versions": [model.version], "platform": "spacte"}
    return {**about, "inputs": [rows], "outputs": [logits]}


@router.post("/models/{name}/versions/base/infer", responses=PROBLEMS, openapi_extra=INFERENCE, response_class=Response)
async def base_infer(
    name: str,
    request: Request,
    arrival: Annotated[Arrival, Depends(arrive)],
    bodies: TheBodies,
    limits: TheLimits,
    images: TheImageRequests,
    models: TheModels,
    caller: TheCaller,
    tasks: TheTasks,
    quotas: TheQuotas,
) -> Response:
    """The base classifier's own `logits` of rows: nothing is drawn and nothing smoothed, so that another may do both.

    Rows are FP32 in units of [0, 1] pixels, and noise may have taken them out of it. Of several heads it is the mean.
    """
    model = models.get(name)
    raw = await bodies.tensors(request)
    text, tensor = split(raw, request.headers.get(JSON_LENGTH))
    asked = await bodies.parse(request, partial(read_rows, tensor=tensor, most_rows=limits.most_images), text)
    with quotas.noises(caller.id, caller.quotas, len(asked.images)) as noises:
        version, logits_BK = await tasks.run(request, images.logits(asked.images, model.name, arrival))
        noises.drawn = len(asked.images)
    body, headers = write_rows(asked, logits_BK, model.name, version)
    return Response(body, headers=headers)
