"""Models and limits: what is served, and loading and unloading it."""

from fastapi import APIRouter, Depends

from spacte_client.types import Info, LoadRequest, Model, ModelList, SampleList, TrafficRequest
from spacte_service.auth import TheCaller, identify, require_admin
from spacte_service.dependencies import TheBackend, TheModels, TheSettings
from spacte_service.version import VERSION
from spacte_service.worker_errors import worker_errors_as_problems

from .descriptions import problems

router = APIRouter(prefix="/v1", tags=["models"], dependencies=[Depends(identify)], responses=problems(400, 401, 429))


@router.get("/models")
async def list_models(models: TheModels) -> ModelList:
    """Every model known, with the noise levels it is served at and its state."""
    return ModelList(data=models.all())


@router.get("/models/{name}", responses=problems(404))
async def get_model(name: str, models: TheModels) -> Model:
    """One model."""
    return models.get(name)


@router.get("/models/{name}/samples", responses=problems(404))
def get_samples(name: str, backend: TheBackend) -> SampleList:
    """Images that the model was not trained on, to try it with, each with its true class."""
    with worker_errors_as_problems():
        return SampleList(data=backend.samples(name))


@router.post(
    "/models/{name}/load",
    status_code=202,
    dependencies=[Depends(require_admin)],
    responses=problems(400, 403, 404, 503),
)
async def load_model(name: str, models: TheModels, asked: LoadRequest | None = None) -> Model:
    """Load a model, or replace it by what its folder holds now.

    The answer says what is to come: `state` is `loading` and `target_version` the version that is being loaded;
    `progress` says how far that is. The version that answers goes on answering until every sampler has loaded and
    checked the new one, so that no request is dropped. With `traffic` it stays, and both answer. With `source` the
    model is fetched first, and may be a new one.
    """
    with worker_errors_as_problems():
        await models.load(name, asked and asked.traffic, asked and asked.source)
    return models.get(name)


@router.put("/models/{name}/traffic", dependencies=[Depends(require_admin)], responses=problems(403, 404, 422))
async def divide_traffic(name: str, models: TheModels, asked: TrafficRequest) -> Model:
    """Divide a model's requests by weight among the versions that are loaded; one that is not named is unloaded.

    Which version answers is a function of the request's id (`X-Request-ID`) and the weights; the answer names it as
    `model_version`.
    """
    with worker_errors_as_problems():
        await models.divide(name, asked.weights)
    return models.get(name)


@router.post(
    "/models/{name}/unload", status_code=202, dependencies=[Depends(require_admin)], responses=problems(403, 404)
)
async def unload_model(name: str, models: TheModels) -> Model:
    """Stop serving a model; what it is working on is answered first."""
    with worker_errors_as_problems():
        await models.unload(name)
    return models.get(name)


@router.get("/info")
async def info(backend: TheBackend, settings: TheSettings, caller: TheCaller) -> Info:
    """The service's version, its samplers, and every limit that a request can trip over, with the key's quotas."""
    pool = backend.pool_status()
    quotas = {f"quota_{name}": most for name, most in caller.quotas if most is not None}
    limits = settings.limits() | quotas
    datasets = sorted(settings.dataset_sources)
    return Info(version=VERSION, limits=limits, datasets=datasets, samplers=pool.ready, device=pool.device)
