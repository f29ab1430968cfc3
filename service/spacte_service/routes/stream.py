"""`POST /v1/certify/stream`: a certificate while it is being proven, as server-sent events."""

import asyncio
import time
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import AsyncExitStack
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated

import structlog
from fastapi import APIRouter, Depends, Request
from fastapi.sse import EventSourceResponse, ServerSentEvent

from spacte_client.types import Certificate, CertifyParams, CertifyRequest, Problem, ProgressEvent, StartedEvent
from spacte_service import image_requests as answering
from spacte_service.admission import Place
from spacte_service.auth import TheCaller
from spacte_service.disconnects import abandoned
from spacte_service.gateway import Gateway, TheGateway
from spacte_service.image_requests import Question
from spacte_service.openapi import described, either_body, problems
from spacte_service.problems import ProblemError, internal, request_id_of, to_problem

from .answers import PlaceKey, visit_of

if TYPE_CHECKING:
    from spacte_workers.certification.algorithm import Progress
    from spacte_workers.shards import Image

log = structlog.stdlib.get_logger("spacte.stream")

router = APIRouter(prefix="/v1", tags=["answers"])

described(StartedEvent, ProgressEvent, Certificate, Problem)

PERIOD_S = 0.1
"""Progress is sent at most ten times a second."""


@dataclass(frozen=True, slots=True)
class Opened:
    """A stream whose request was found good, before its first event."""

    question: Question[CertifyParams]
    image: "Image"
    place: Place
    request_id: str


async def open_stream(
    request: Request, gateway: TheGateway, caller: TheCaller, idempotency_key: PlaceKey = None
) -> AsyncGenerator[Opened]:
    """Read the request and take a place for it, so that what is wrong is answered with its own status.

    Raises:
        ProblemError: as for `POST /v1/certify`.
    """
    with gateway.work():
        visit = visit_of(gateway, caller, idempotency_key)
        gateway.admission.refuse_early(visit)
        work = await gateway.bodies.certify(request)
        gateway.check_limits(work.params)
        question = Question(work.images[0], always_looked_at(gateway, work.params), request.state.arrived)
        async with AsyncExitStack() as stack:
            coming_in = stack.enter_async_context(answering.place_for(gateway, question, visit))
            place = await gateway.presence.run(request, coming_in)
            image = await answering.decode(gateway, question)
            yield Opened(question, image, place, request_id_of(request.scope) or "")


def always_looked_at(gateway: Gateway, params: CertifyParams) -> CertifyParams:
    """The same options with a stopping rule: only then is the bound valid at every look, not just at `n`."""
    if params.deadline_ms or params.target_radius or params.tolerance:
        return params
    return params.model_copy(update={"deadline_ms": gateway.settings.deadline_ms_max})


@router.post(
    "/certify/stream",
    response_class=EventSourceResponse,
    responses=problems(400, 401, 404, 413, 415, 422, 429, 500, 503, 504),
    openapi_extra=either_body(CertifyParams, CertifyRequest),
)
async def certify_stream(
    opened: Annotated[Opened, Depends(open_stream)], gateway: TheGateway
) -> AsyncIterator[ServerSentEvent]:
    """Certify an image and see the radius grow: `started`, `progress` up to ten times a second, `result`.

    The bound is valid at every event, so whoever stops listening holds the certificate of the last one. A
    stream that fails ends with `error`, a problem document. To stop listening stops the work.
    """
    from spacte_workers.statistics.stopping import look_schedule

    news = _News()
    work = gateway.presence.start(answering.certify(gateway, opened.question, opened.image, opened.place, news.tell))
    params = opened.question.params
    try:
        yield _event(
            "started",
            StartedEvent(
                request_id=opened.request_id,
                model=params.model or gateway.only_model(),
                n_max=params.n,
                looks=len(look_schedule(params.n)),
            ),
        )
        async for progress in news.until_done(work):
            yield _event("progress", progress)
        yield _event("result", _result(work))
    except ProblemError as error:
        problem = to_problem(error, opened.request_id)
        yield ServerSentEvent(event="error", data=problem.model_dump(mode="json", exclude_none=True))
    finally:
        await gateway.presence.end(work)


class _News:
    """The latest proof, at a bearable pace."""

    def __init__(self) -> None:
        self._latest: tuple[Progress, Certificate] | None = None
        self._came = asyncio.Event()
        self._began = time.perf_counter()

    def tell(self, progress: "Progress", standing: Certificate | None) -> None:
        """Take note of what is proven; what was not passed on yet is forgotten."""
        if standing is not None:
            self._latest = progress, standing
            self._came.set()

    async def until_done(self, work: "asyncio.Task[Certificate]") -> AsyncIterator[ProgressEvent]:
        """The news until the work is done, one in each period at most."""
        work.add_done_callback(lambda _: self._came.set())
        while not work.done():
            await self._came.wait()
            self._came.clear()
            latest, self._latest = self._latest, None
            if latest is not None and not work.done():
                yield self._as_event(*latest)
                await asyncio.wait({work}, timeout=PERIOD_S)

    def _as_event(self, progress: "Progress", standing: Certificate) -> ProgressEvent:
        elapsed_ms = 1000 * (time.perf_counter() - self._began)
        left = (progress.n_max - progress.samples) / max(1, progress.samples)
        return ProgressEvent(
            samples=progress.samples,
            top_label=progress.top_label,
            p_lower=progress.p_lower,
            radius=progress.radius,
            looks_done=progress.looks_done,
            eta_ms=round(elapsed_ms * left, 1),
            certificate=standing,
        )


def _result(work: "asyncio.Task[Certificate]") -> Certificate:
    """The certificate of finished work, or the reason why there is none as a problem."""
    if work.cancelled():
        raise abandoned()
    try:
        return work.result()
    except ProblemError:
        raise
    except Exception as error:
        log.exception("stream failed")
        raise internal() from error


def _event(kind: str, fields: StartedEvent | ProgressEvent | Certificate) -> ServerSentEvent:
    return ServerSentEvent(event=kind, data=fields.model_dump(mode="json", exclude={"event"}))
