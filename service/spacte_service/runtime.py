"""Makes the workers' runtime from the gateway's settings: samplers on Ray, or threads of this process."""

from spacte_workers.engine.precision_rule import PrecisionRule
from spacte_workers.scheduling.observers import Observer
from spacte_workers.serving.model_sources import ModelSources, sources_of
from spacte_workers.serving.model_store import ModelStore
from spacte_workers.serving.runtime import Runtime

from .decoding import Decoding
from .jobs.data_folder import DataFolder
from .settings import Settings


def model_sources(settings: Settings) -> ModelSources | None:
    """The models that are fetched; None where no prefix is allowed."""
    if not settings.model_prefixes:
        return None
    folder = DataFolder(settings.data_dir).models
    named = sources_of(settings.model_sources)
    return ModelSources(folder, settings.model_prefixes, named, most_bytes=settings.fetched_models_bytes)


def make_runtime(settings: Settings, decoding: Decoding, observer: Observer) -> Runtime:
    """A runtime that has not been started; it tells `observer` of what is drawn, wasted and retried.

    Raises:
        ModelLoadError: samplers of this process cannot vote in the precision asked for.
    """
    if settings.in_process:
        from spacte_workers.serving.pools import LocalPool, require_precision_here

        require_precision_here(settings.precision)
        pool = LocalPool(settings.samplers)
    else:
        from .ray_process import ProcessPool, RayOptions

        pool = ProcessPool(
            RayOptions(
                settings.address,
                settings.samplers_min,
                settings.samplers,
                settings.sampler_threads,
                drivers_here=settings.job_drivers == "gateway",
            )
        )
    return Runtime(
        ModelStore(settings.models, settings.require_signed_models, model_sources(settings)),
        pool,
        precision=settings.precision,
        rule=PrecisionRule(settings.allow_int8, settings.min_agreement, settings.portable),
        allow_client_seed=settings.allow_client_seed,
        seed_secret=settings.seed_secret,
        decode=decoding.image,
        observer=observer,
    )
