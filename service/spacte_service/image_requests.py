"""One image through the house: its place, its turn, its pixels, its deadline, the samplers, its answer."""

import asyncio
import time
from collections.abc import AsyncGenerator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, Generic, TypeVar

import structlog
from anyio import to_thread

from spacte_client.types import Certificate, CertifyParams, Prediction, PredictParams

from .admission import Place, Visit
from .backend import OnProgress
from .gateway import Gateway
from .ids import new_id
from .problems import ProblemError
from .worker_errors import faults_as_problems

if TYPE_CHECKING:
    from spacte_workers.certification.algorithm import Progress
    from spacte_workers.shards import Image

log = structlog.stdlib.get_logger("spacte.answers")


P = TypeVar("P", bound=PredictParams)


@dataclass(frozen=True, slots=True)
class Question(Generic[P]):
    """An image file and what is asked about it.

    Attributes:
        data: the file's bytes.
        params: what is asked.
        arrived: when the request came, by `time.perf_counter`.
        pointer: where the image stood in the body.
    """

    data: bytes
    params: P
    arrived: float
    pointer: str = "/image"


async def decode(gateway: Gateway, question: Question[Any]) -> "Image":
    """The question's pixels, in the model's input shape, decoded in a thread.

    Raises:
        ProblemError: the image or the model cannot be used.
    """
    params: PredictParams = question.params
    work = partial(gateway.backend.decode, params.model, question.data, params.resize)
    with faults_as_problems(image=question.pointer):
        return await to_thread.run_sync(work, limiter=gateway.threads)


@asynccontextmanager
async def place_for(gateway: Gateway, question: Question[CertifyParams], visit: Visit) -> AsyncGenerator[Place]:
    """A place for a question; one who was told to come now waits for it, no longer than the deadline.

    Raises:
        ProblemError: 429, there is none; 504, the deadline passed.
    """
    async with AsyncExitStack() as stack:
        async with _in_time(question):
            place = await stack.enter_async_context(gateway.admission.place(visit))
        yield place


async def certify(
    gateway: Gateway,
    question: Question[CertifyParams],
    image: "Image",
    place: Place,
    on_progress: OnProgress | None = None,
) -> Certificate:
    """The certificate of a decoded image. Its times and its deadline count from the request's arrival.

    Raises:
        ProblemError: an option cannot be used, no sampler is alive, the deadline passed, or the request lost
            its place.
    """
    params = question.params
    async with _in_time(question):
        waited = await place.turn()
    timely = _in_the_time_left(question)

    def as_asked(made: Certificate) -> Certificate:
        """Its times from the request's arrival, and the deadline that was asked for."""
        times = {
            "deadline_ms": params.deadline_ms,
            "queue_ms": round(1000 * waited + made.queue_ms, 3),
            "elapsed_ms": round(1000 * (time.perf_counter() - question.arrived), 3),
        }
        return made.model_copy(update=times)

    def tell(progress: "Progress", standing: Certificate | None) -> None:
        if on_progress:
            on_progress(progress, as_asked(standing) if standing else None)

    with faults_as_problems():
        made = await gateway.backend.certify(
            image, timely, request_id=new_id("cert"), on_progress=tell if on_progress else None
        )
    place.done()
    certificate = as_asked(made)
    gateway.metrics.certified(certificate)
    log.info(
        "certified",
        certificate=certificate.id,
        model=certificate.model,
        label=certificate.label,
        radius=certificate.radius,
        n=certificate.n,
        stop_reason=certificate.stop_reason,
        queue_ms=certificate.queue_ms,
    )
    return certificate


async def predict(gateway: Gateway, question: Question[PredictParams], visit: Visit) -> Prediction:
    """The prediction for one image.

    Raises:
        ProblemError: as for `certify`, without deadlines.
    """
    params = question.params
    async with gateway.admission.place(visit) as place:
        image = await decode(gateway, question)
        await place.turn()
        with faults_as_problems():
            made = await gateway.backend.predict(image, params, request_id=new_id("pred"))
        place.done()
    elapsed_ms = round(1000 * (time.perf_counter() - question.arrived), 3)
    prediction = made.model_copy(update={"elapsed_ms": elapsed_ms})
    log.info("predicted", prediction=prediction.id, model=prediction.model, label=prediction.label)
    return prediction


def _milliseconds_left(question: Question[CertifyParams]) -> int | None:
    """What is left of the deadline, if there is one."""
    deadline_ms = question.params.deadline_ms
    return None if deadline_ms is None else deadline_ms - int(1000 * (time.perf_counter() - question.arrived))


@asynccontextmanager
async def _in_time(question: Question[CertifyParams]) -> AsyncGenerator[None]:
    """Wait for something, no longer than the request's deadline."""
    left = _milliseconds_left(question)
    try:
        async with asyncio.timeout(None if left is None else max(0, left) / 1000):
            yield
    except TimeoutError:
        raise _too_late() from None


def _in_the_time_left(question: Question[CertifyParams]) -> CertifyParams:
    """The same options with what is left of the deadline."""
    left = _milliseconds_left(question)
    if left is None:
        return question.params
    if left < 1:
        raise _too_late()
    return question.params.model_copy(update={"deadline_ms": left})


def _too_late() -> ProblemError:
    sentence = "The deadline passed before the samplers were free; allow more time, or try again later."
    return ProblemError("deadline_exceeded", sentence)
