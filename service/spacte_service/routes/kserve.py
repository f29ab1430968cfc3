"""The Open Inference Protocol v2, for platforms and clients that speak it: health, metadata, predictions."""

from dataclasses import dataclass
from functools import partial
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Request, Response
from fastapi.responses import JSONResponse

from spacte_client.types import Model
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
from spacte_service.problems import INFERENCE_MEDIA_TYPE
from spacte_service.version import VERSION
from spacte_workers.serving.served_model import model_key
from spacte_workers.votes import most_votes

from .answers import all_or_none, arrive, first_for_all
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
OF_MODELS = problems(400, 401, 404, 429, media_type=INFERENCE_MEDIA_TYPE)
OF_INFERENCE = problems(400, 401, 404, 413, 415, 422, 429, 500, 503, media_type=INFERENCE_MEDIA_TYPE)


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


@dataclass(frozen=True)
class Asking:
    """A request for an inference, and what answers it."""

    request: Request
    arrival: Annotated[Arrival, Depends(arrive)]
    bodies: TheBodies
    limits: TheLimits
    images: TheImageRequests
    models: TheModels
    caller: TheCaller
    tasks: TheTasks
    quotas: TheQuotas

    async def body(self) -> tuple[bytes, bytes]:
        """Its JSON, and the tensor after it."""
        raw = await self.bodies.tensors(self.request)
        return split(raw, self.request.headers.get(JSON_LENGTH))

    async def predictions(self, model: str) -> Response:
        """What a model, or one version of it by its key, says of the images."""
        text, tensor = await self.body()
        read = partial(read_inference, tensor=tensor, model=model, most_images=self.limits.most_images)
        asked = await self.bodies.parse(self.request, read, text)
        self.bodies.check_limits(asked.params)
        arrived = self.request.state.arrived
        parts = (
            self.images.predict(ImageRequest(image, asked.params, self.arrival, arrived, "/inputs/0", together))
            for image, together in zip(asked.images, first_for_all(asked.images), strict=True)
        )
        most = len(asked.images) * most_votes(asked.params)
        with self.quotas.noises(self.caller.id, self.caller.quotas, most) as noises:
            found = await self.tasks.run(self.request, all_or_none(parts))
            noises.drawn = sum(prediction.n for prediction in found)
        body, headers = write_inference(asked, found)
        return Response(body, headers=headers)

    async def logits(self, model: str) -> Response:
        """The base classifier's logits of the rows."""
        text, tensor = await self.body()
        read = partial(read_rows, tensor=tensor, most_rows=self.limits.most_images)
        asked = await self.bodies.parse(self.request, read, text)
        with self.quotas.noises(self.caller.id, self.caller.quotas, len(asked.images)) as noises:
            rows = self.images.logits(asked.images, model, self.arrival)
            version, logits_BK = await self.tasks.run(self.request, rows)
            noises.drawn = len(asked.images)
        body, headers = write_rows(asked, logits_BK, model, version)
        return Response(body, headers=headers)


TheAsking = Annotated[Asking, Depends()]


@router.get("/models/{name}", dependencies=[Depends(identify)], responses=OF_MODELS)
async def metadata(name: str, models: TheModels) -> dict[str, Any]:
    """A model's tensors and the versions that answer; -1 stands for the number of images."""
    model = models.get(name)
    shapes = {"label": [-1], "counts": [-1, model.num_classes]}
    outputs = [{"name": output, "datatype": "INT64", "shape": shapes[output]} for output in OUTPUTS]
    return _about(model, {"name": INPUT, "datatype": "UINT8", "shape": [-1, *model.input_shape]}, outputs)


@router.get(
    "/models/{name}/ready",
    dependencies=[Depends(identify)],
    responses=OF_MODELS | NOT_READY,
    response_model=dict[str, Any],
)
async def model_ready(name: str, models: TheModels) -> JSONResponse:
    """200 where this model answers."""
    return _readiness(models.get(name))


@router.post("/models/{name}/infer", responses=OF_INFERENCE, openapi_extra=INFERENCE, response_class=Response)
async def infer(name: str, asking: TheAsking) -> Response:
    """Classify images by the smoothed classifier: `label` is -1 where it abstains, and `counts` are the votes.

    `parameters` are those of `/v1/predict`: `n`, `alpha`, `seed` and so on. An image is UINT8, or FP32 in [0, 1].
    """
    return await asking.predictions(asking.models.get(name).name)


@router.get("/models/{name}/versions/base", dependencies=[Depends(identify)], responses=OF_MODELS)
async def base_metadata(name: str, models: TheModels) -> dict[str, Any]:
    """The tensors of the base classifier, which is asked without noise."""
    model = models.get(name)
    logits = {"name": "logits", "datatype": "FP32", "shape": [-1, model.num_classes]}
    return _about(model, {"name": INPUT, "datatype": "FP32", "shape": [-1, *model.input_shape]}, [logits])


@router.get(
    "/models/{name}/versions/base/ready",
    dependencies=[Depends(identify)],
    responses=OF_MODELS | NOT_READY,
    response_model=dict[str, Any],
)
async def base_ready(name: str, models: TheModels) -> JSONResponse:
    """200 where the base classifier answers."""
    return _readiness(models.get(name))


@router.post(
    "/models/{name}/versions/base/infer", responses=OF_INFERENCE, openapi_extra=INFERENCE, response_class=Response
)
async def base_infer(name: str, asking: TheAsking) -> Response:
    """The base classifier's own `logits` of rows: nothing is drawn and nothing smoothed, so that another may do both.

    Rows are FP32 in units of [0, 1] pixels, and noise may have taken them out of it. Of several heads it is the mean.
    """
    return await asking.logits(asking.models.get(name).name)


@router.get("/models/{name}/versions/{version}", dependencies=[Depends(identify)], responses=OF_MODELS)
async def version_metadata(name: str, version: str, models: TheModels) -> dict[str, Any]:
    """As `/v2/models/{name}`, of a version that answers; six digits of it or more are enough."""
    models.version(name, version)
    return await metadata(name, models)


@router.get(
    "/models/{name}/versions/{version}/ready",
    dependencies=[Depends(identify)],
    responses=OF_MODELS | NOT_READY,
    response_model=dict[str, Any],
)
async def version_ready(name: str, version: str, models: TheModels) -> JSONResponse:
    """200 where this version answers."""
    models.version(name, version)
    return _readiness(models.get(name))


@router.post(
    "/models/{name}/versions/{version}/infer", responses=OF_INFERENCE, openapi_extra=INFERENCE, response_class=Response
)
async def version_infer(name: str, version: str, asking: TheAsking) -> Response:
    """As `/v2/models/{name}/infer`, by this version, where two share the requests."""
    return await asking.predictions(model_key(name, asking.models.version(name, version)))


def _about(model: Model, image: dict[str, Any], outputs: list[dict[str, Any]]) -> dict[str, Any]:
    versions = [share.version for share in model.traffic] or [model.version]
    about = {"name": model.name, "versions": versions, "platform": "spacte"}
    return {**about, "inputs": [image], "outputs": outputs}


def _readiness(model: Model) -> JSONResponse:
    return JSONResponse({"name": model.name, "ready": model.answers}, 200 if model.answers else 503)
