"""Whether a certify request would be answered now, and what is in its way."""

from .model_store import ModelStore
from .pools import PoolStatus


def readiness(store: ModelStore, pool: PoolStatus, started: bool) -> dict[str, str]:
    """Checks by name, each `ok` or a sentence; `started` is whether the pool has been.

    The models are ready once every one that the folder held at the start is loaded or has failed, and one answers.
    """
    samplers = "ok" if pool.ready else f"No sampler is alive ({pool.starting} starting, {pool.lost} lost)."
    if not started:
        samplers = "The samplers are being started."
    models = "ok" if store.all_served() else "No model is loaded."
    if coming := store.still_loading():
        models = f"Still loading: {'; '.join(f'{name} ({how_far})' for name, how_far in coming.items())}."
    return {"samplers": samplers, "models": models}
