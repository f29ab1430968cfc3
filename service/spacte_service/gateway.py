"""What the routes share: the settings, the workers, and whether the service is going down."""

from collections.abc import Generator
from contextlib import contextmanager
from typing import Annotated, cast

from anyio import CapacityLimiter
from fastapi import Depends, Request

from spacte_client.types import Certificate, Model, PredictParams
from spacte_service.jobs.subsystem import Batch

from .admission import Admission
from .backend import Backend
from .bodies import BodyReader
from .disconnects import Presence
from .idempotency import Answers, Shelf
from .keys import KeyRing
from .metrics import Metrics
from .model_changes import ModelChanges
from .problems import ProblemError, field_error
from .settings import Settings


class Gateway:
    """The state of one application, kept in `app.state.gateway`."""

    def __init__(self, settings: Settings, backend: Backend, metrics: Metrics) -> None:
        self.settings = settings
        self.backend = backend
        self.threads = CapacityLimiter(settings.decode_threads)
        self.admission = Admission(
            settings.max_concurrent_requests, settings.max_running, settings.max_concurrent_per_caller
        )
        self.presence = Presence()
        self.metrics = metrics
        metrics.watch(self.admission, backend.pool_status)
        self.changes = ModelChanges(backend)
        self.batch = Batch(settings, backend, metrics, lambda: self.draining)
        self.bodies = BodyReader(settings.body_timeout_s, self.threads, self.batch.image, settings.max_body_bytes)
        self.certificates = Answers(Certificate, self._kept_answers)
        self.keys = KeyRing(settings.fixed_keys(), settings.keys_file) if settings.has_keys else None
        self.draining = False
        self.in_flight = 0

    async def start(self) -> None:
        """Start the workers; returns once requests can be answered. Where that fails, nothing runs on."""
        await self.backend.start()
        try:
            await self.batch.start()
        except BaseException:
            await self.stop()
            raise

    async def stop(self) -> None:
        """Let go of the workers."""
        await self.changes.stop()
        await self.certificates.written()
        await self.batch.stop()
        await self.backend.stop()

    async def _kept_answers(self) -> Shelf | None:
        """The store's part in idempotency; None where no job or file has made a store yet."""
        return (await self.batch.opened()).store.answers if self.batch.readiness() else None

    def readiness(self) -> dict[str, str]:
        """Checks by name, each `ok` or a sentence on what is wrong."""
        draining = "The service is shutting down." if self.draining else "ok"
        return self.backend.ready() | self.batch.readiness() | {"draining": draining}

    def is_ready(self) -> bool:
        """Whether a request would be answered now."""
        return all(state == "ok" for state in self.readiness().values())

    def drain(self) -> None:
        """Take no more work; what is in flight is finished."""
        self.draining = True

    def abandon(self) -> None:
        """End what is in flight; its callers get 503."""
        self.presence.abandon()

    @contextmanager
    def work(self) -> Generator[None]:
        """Count a request as in flight.

        Raises:
            ProblemError: 503 once the service has been asked to stop.
        """
        if self.draining:
            sentence = "The service is shutting down; try again in a moment, when another has taken over."
            raise ProblemError("draining", sentence, retry_after_s=5.0)
        self.in_flight += 1
        try:
            yield
        finally:
            self.in_flight -= 1

    def model(self, name: str) -> Model:
        """The model of that name, loaded or not.

        Raises:
            ProblemError: 404.
        """
        models = self.backend.models()
        for model in models:
            if model.name == name:
                return model
        there = ", ".join(model.name for model in models) or "none"
        raise ProblemError("model_not_found", f"There is no model {name[:64]!r}; choose one of those served ({there}).")

    def only_model(self) -> str:
        """The name of the model that answers where none is named; empty where that is undecided."""
        ready = [model.name for model in self.backend.models() if model.state == "ready"]
        return ready[0] if len(ready) == 1 else ""

    def check_limits(self, params: PredictParams) -> None:
        """Hold a request's options against the operator's limits.

        Raises:
            ProblemError: 422 that names the limit.
        """
        settings = self.settings
        at_most = {"n": settings.n_max, "n0": settings.n0_max, "deadline_ms": settings.deadline_ms_max}
        for name, limit in at_most.items():
            value = getattr(params, name, None)
            if value is not None and value > limit:
                raise field_error(f"/{name}", f"`{name}` is at most {limit:,} here; ask for less.")
        if params.alpha < settings.alpha_min:
            raise field_error("/alpha", f"`alpha` is at least {settings.alpha_min:g} here; ask for more.")
        if params.seed is not None and not settings.allow_client_seed:
            sentence = "The service draws the seed; leave `seed` out, or have SPACTE_ALLOW_CLIENT_SEED set."
            raise field_error("/seed", sentence)


async def gateway_of(request: Request) -> Gateway:
    """The gateway that this request came to. A coroutine, because FastAPI runs functions in threads."""
    return cast("Gateway", request.app.state.gateway)


TheGateway = Annotated[Gateway, Depends(gateway_of)]
