"""One image from its request to its answer: a permit, its pixels, its turn, its deadline, the samplers."""

import asyncio
import math
import time
from collections.abc import AsyncGenerator, Awaitable, Callable, Generator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, Any, Generic, TypeVar

import structlog
from anyio import CapacityLimiter, to_thread

from spacte_client.types import (
    Bracket,
    BracketParams,
    Certificate,
    CertifyParams,
    ImageParams,
    Prediction,
    PredictionSet,
    PredictParams,
    SetParams,
)
from spacte_workers.deadlines import Deadline
from spacte_workers.votes import most_votes

from .admission import Admission, Arrival, Demand, Permit
from .backend import Backend, OnProgress
from .ids import current_request_id, new_id
from .metrics import Metrics
from .problems import ProblemError
from .signing_keys import Signer
from .worker_errors import worker_errors_as_problems

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from spacte_workers.certification.algorithm import Progress
    from spacte_workers.shards import Image

log = structlog.stdlib.get_logger("spacte.answers")

P = TypeVar("P", bound=ImageParams)
A = TypeVar("A")


@dataclass(frozen=True, slots=True)
class ImageRequest(Generic[P]):
    """An image file and what is asked about it."""

    data: bytes
    params: P
    arrival: Arrival  # the request, as admission knows it
    arrived: float  # by `time.perf_counter`
    pointer: str = "/image"  # JSON pointer to the image in the body
    images: int = 1  # of the request, for its first one; 0 for the others, which are taken in with it


@dataclass(frozen=True)
class ImageRequests:
    """Answers requests about images; `_threads` decode them, `_signer` signs certificates."""

    _backend: Backend
    _admission: Admission
    _metrics: Metrics
    _threads: CapacityLimiter
    _signer: Signer

    async def certify(self, request: ImageRequest[CertifyParams]) -> Certificate:
        """The certificate of one image.

        Raises ProblemError: 429, there is no permit; 504, the deadline passed; and as `certify_decoded`.
        """
        with self.pinned(request) as pinned:
            async with self.permit(pinned) as permit:
                return await self.certify_decoded(pinned, await self.decode(pinned), permit)

    @contextmanager
    def pinned(self, request: ImageRequest[P]) -> Generator[ImageRequest[P]]:
        """The same request to one version of its model, which stays loaded while the block runs."""
        with self._backend.pinned(request.params.model, current_request_id()) as model:
            yield replace(request, params=request.params.model_copy(update={"model": model}))

    async def predict(self, request: ImageRequest[PredictParams]) -> Prediction:
        """The prediction for one image. Raises ProblemError: as for `certify`, without deadlines."""
        made = await self._answered(request, partial(self._backend.predict, request_id=new_id("pred")))
        prediction = made.model_copy(update={"elapsed_ms": _milliseconds_since(request.arrived)})
        self._metrics.answered_by(prediction)
        log.info("predicted", prediction=prediction.id, model=prediction.model, label=prediction.label)
        return prediction

    async def predict_set(self, request: ImageRequest[SetParams]) -> PredictionSet:
        """The prediction set of one image. Raises ProblemError: as for `predict`; 409, the model is not calibrated."""
        made = await self._answered(request, partial(self._backend.predict_set, request_id=new_id("set")))
        log.info("predicted a set", set=made.id, model=made.model, labels=len(made.labels))
        return made.model_copy(update={"elapsed_ms": _milliseconds_since(request.arrived)})

    async def _answered(self, request: ImageRequest[P], ask: "Callable[[Image, P], Awaitable[A]]") -> A:
        """What one version answers about an image, once the request has its permit, its pixels and its turn."""
        with self.pinned(request) as pinned:
            async with self._admission.permit(request.arrival, self._demand(pinned)) as permit:
                image = await self.decode(pinned)
                await permit.turn()
                with worker_errors_as_problems():
                    made = await ask(image, pinned.params)
                permit.done()
        return made

    async def logits(self, rows: "Sequence[Image]", model: str, arrival: Arrival) -> "tuple[str, NDArray[np.float32]]":
        """The version that answers, and the base classifier's logits of rows. Raises ProblemError: as for `predict`."""
        with self._backend.pinned(model, current_request_id()) as version:
            name, rate = self._backend.rate(version)
            seconds = len(rows) / rate if rate else 0.0
            demand = Demand(name, seconds, seconds) if rate else Demand()
            async with self._admission.permit(arrival, demand) as permit:
                await permit.turn()
                with worker_errors_as_problems("/inputs/0"):
                    found = await self._backend.logits(rows, version)
                permit.done()
        return found

    async def bracket(self, request: ImageRequest[BracketParams]) -> Bracket:
        """The certified radius of one image from both sides. Raises ProblemError: as for `certify`."""
        made = await self._answered(request, partial(self._backend.bracket, request_id=new_id("cert")))
        self._metrics.certified(made.certificate)
        log.info("bracketed", bracket=made.id, model=made.certificate.model, lower=made.lower, upper=made.upper)
        return made.model_copy(update={"elapsed_ms": _milliseconds_since(request.arrived)})

    @asynccontextmanager
    async def permit(self, request: ImageRequest[CertifyParams]) -> AsyncGenerator[Permit]:
        """A permit; a request with a reservation waits for it, no longer than its deadline.

        Raises ProblemError: 429, there is none; 504, the deadline passed.
        """
        async with AsyncExitStack() as stack:
            async with _before(_deadline(request)):
                permit = await stack.enter_async_context(self._admission.permit(request.arrival, self._demand(request)))
            yield permit

    def _demand(self, request: ImageRequest[Any]) -> Demand:
        """What a request asks of the samplers; a prediction set is a matter of milliseconds.

        With a deadline that is no more than its first look: it is answered by then with what is proven, and runs
        beside others.
        """
        from spacte_workers.statistics.stopping import FIRST_LOOK

        params: ImageParams = request.params
        model, rate = self._backend.rate(params.model)
        if not rate or not isinstance(params, PredictParams):
            return Demand()
        votes = most_votes(params)
        if not isinstance(params, CertifyParams):
            return Demand(model, votes / rate, request.images * votes / rate)
        deadline_s = _deadline(request).seconds_left
        first_s = min(votes, params.n0 + FIRST_LOOK) / rate
        seconds = votes / rate if deadline_s is None else first_s
        return Demand(model, seconds, seconds, first_s, deadline_s)

    async def decode(self, request: ImageRequest[Any]) -> "Image":
        """The pixels, in the model's input shape, decoded in a thread.

        Raises ProblemError: the image or the model cannot be used.
        """
        params: ImageParams = request.params
        from spacte_workers.images import asked_of

        work = partial(self._backend.decode, params.model, request.data, asked_of(params))
        with worker_errors_as_problems(image=request.pointer):
            return await to_thread.run_sync(work, limiter=self._threads)

    async def certify_decoded(
        self,
        request: ImageRequest[CertifyParams],
        image: "Image",
        permit: Permit,
        on_progress: OnProgress | None = None,
    ) -> Certificate:
        """The certificate of a decoded image. Its times and its deadline count from the request's arrival.

        Raises:
            ProblemError: an option cannot be used, no sampler is alive, the deadline passed, or the request lost its
                permit.
        """
        deadline = _deadline(request)
        async with _before(deadline):
            waited = await permit.turn()
        if deadline.passed:
            raise _too_late()
        left_s = deadline.seconds_left
        params = request.params.model_copy(update={"deadline_ms": left_s and math.ceil(1000 * left_s)})

        def as_asked(made: Certificate) -> Certificate:
            """With the times from the request's arrival, the deadline that was asked for, and the signature."""
            times = {
                "deadline_ms": request.params.deadline_ms,
                "queue_ms": round(1000 * waited + made.queue_ms, 3),
                "elapsed_ms": _milliseconds_since(request.arrived),
            }
            return self._signer.signed(made.model_copy(update=times))

        def tell(progress: "Progress", standing: Certificate | None) -> None:
            if on_progress:
                on_progress(progress, as_asked(standing) if standing else None)

        with worker_errors_as_problems():
            made = await self._backend.certify(
                image, params, request_id=new_id("cert"), on_progress=tell if on_progress else None
            )
        permit.done()
        certificate = as_asked(made)
        self._metrics.certified(certificate)
        fields = certificate.model_dump(include={"model", "label", "radius", "n", "stop_reason", "queue_ms"})
        log.info("certified", certificate=certificate.id, **fields)
        return certificate


def _deadline(request: ImageRequest[CertifyParams]) -> Deadline:
    return Deadline(request.params.deadline_ms, since=request.arrived)


@asynccontextmanager
async def _before(deadline: Deadline) -> AsyncGenerator[None]:
    """Wait for something, no longer than until the deadline."""
    try:
        async with asyncio.timeout(deadline.seconds_left):
            yield
    except TimeoutError:
        raise _too_late() from None


def _too_late() -> ProblemError:
    sentence = "The deadline passed before the samplers were free; allow more time, or try again later."
    return ProblemError("deadline_exceeded", sentence)


def _milliseconds_since(arrived: float) -> float:
    return round(1000 * (time.perf_counter() - arrived), 3)
