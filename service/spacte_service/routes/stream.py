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
from spacte_service.admission import Arrival, Permit
from spacte_service.auth import TheCaller, TheStream, revoked
from spacte_service.dependencies import TheBodies, TheImageRequests, TheLimits, TheModels, TheQuotas, TheTasks
from spacte_service.disconnects import shut_down
from spacte_service.image_requests import ImageRequest
from spacte_service.open_streams import OpenStream
from spacte_service.problems import ProblemError, field_error, internal, request_id_of, to_problem
from spacte_service.quotas import Noises
from spacte_workers.votes import most_votes, votes_of

from .answers import arrive
from .descriptions import described, either_body, problems

if TYPE_CHECKING:
    from spacte_workers.certification.algorithm import Progress
    from spacte_workers.shards import Image

log = structlog.stdlib.get_logger("spacte.stream")

router = APIRouter(prefix="/v1", tags=["answers"])

described(StartedEvent, ProgressEvent, Certificate, Problem)

PERIOD_S = 0.1  # between events, as the API says


@dataclass(frozen=True, slots=True)
class AcceptedStream:
    """A stream whose request was found good, before its first event."""

    request: ImageRequest[CertifyParams]
    image: "Image"
    permit: Permit
    noises: Noises
    open: OpenStream
    request_id: str


async def accept_stream(
    request: Request,
    caller: TheCaller,
    stream: TheStream,
    arrival: Annotated[Arrival, Depends(arrive)],
    bodies: TheBodies,
    images: TheImageRequests,
    tasks: TheTasks,
    limits: TheLimits,
    quotas: TheQuotas,
) -> AsyncGenerator[AcceptedStream]:
    """Read the request and take a permit for it, so that what is wrong is answered with its own status.

    Raises ProblemError: as for `POST /v1/certify`.
    """
    body = await bodies.certify(request, caller)
    params = with_stopping_rule(body.params, limits.deadline_ms_max)
    asked = ImageRequest(body.images[0], params, arrival, request.state.arrived)
    async with AsyncExitStack() as stack:
        image_request = stack.enter_context(images.pinned(asked))
        noises = stack.enter_context(quotas.noises(caller.id, caller.quotas, most_votes(params)))
        permit = await tasks.run(request, stack.enter_async_context(images.permit(image_request)))
        image = await images.decode(image_request)
        yield AcceptedStream(image_request, image, permit, noises, stream, request_id_of(request.scope) or "")


def with_stopping_rule(params: CertifyParams, deadline_ms: int) -> CertifyParams:
    """The same options with a stopping rule: only then is the bound valid at every look, not just at `n`.

    Raises ProblemError: 422, `certify` is asked for, whose bound holds at the end alone.
    """
    if params.certify is not None:
        sentence = "The bound of `certify` is not known before the last noise: ask for it with `POST /v1/certify`."
        raise field_error("/certify", sentence)
    if params.deadline_ms or params.target_radius or params.tolerance:
        return params
    return params.model_copy(update={"deadline_ms": deadline_ms})


@router.post(
    "/certify/stream",
    response_class=EventSourceResponse,
    responses=problems(400, 401, 404, 413, 415, 422, 429, 500, 503, 504),
    openapi_extra=either_body(CertifyParams, CertifyRequest),
)
async def certify_stream(
    stream: Annotated[AcceptedStream, Depends(accept_stream)],
    images: TheImageRequests,
    models: TheModels,
    tasks: TheTasks,
) -> AsyncIterator[ServerSentEvent]:
    """Certify an image and see the radius grow: `started`, `progress` up to ten times a second, `result`.

    The bound is valid at every event, so whoever stops listening holds the certificate of the last one. A
    stream that fails ends with `error`, a problem document. To stop listening stops the work.
    """
    from spacte_workers.statistics.stopping import look_schedule

    latest = _LatestProgress()
    work = tasks.start(images.certify_decoded(stream.request, stream.image, stream.permit, latest.tell))
    stream.open.work = work
    params = stream.request.params
    try:
        yield _event(
            "started",
            StartedEvent(
                request_id=stream.request_id,
                model=(params.model or models.only()).partition("@")[0],
                n_max=params.n,
                looks=len(look_schedule(params.n)),
            ),
        )
        async for progress in latest.until_done(work):
            stream.noises.drawn = params.n0 + progress.samples
            yield _event("progress", progress)
        if stream.open.revoked:
            raise revoked()
        certificate = _result(work)
        stream.noises.drawn = votes_of(certificate)
        yield _event("result", certificate)
    except ProblemError as error:
        if not stream.open.revoked:
            stream.noises.drawn = 0
        problem = to_problem(error, stream.request_id)
        yield ServerSentEvent(event="error", data=problem.model_dump(mode="json", exclude_none=True))
    finally:
        await tasks.end(work)


class _LatestProgress:
    """The latest state of a proof, at most once in each period."""

    def __init__(self) -> None:
        self._latest: tuple[Progress, Certificate] | None = None
        self._changed = asyncio.Event()
        self._began = time.perf_counter()

    def tell(self, progress: "Progress", standing: Certificate | None) -> None:
        """Take note of what is proven; what was not sent yet is replaced."""
        if standing is not None:
            self._latest = progress, standing
            self._changed.set()

    async def until_done(self, work: "asyncio.Task[Certificate]") -> AsyncIterator[ProgressEvent]:
        """Events until the work is done."""
        work.add_done_callback(lambda _: self._changed.set())
        while not work.done():
            await self._changed.wait()
            self._changed.clear()
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
        raise shut_down()
    try:
        return work.result()
    except ProblemError:
        raise
    except Exception as error:
        log.exception("stream failed")
        raise internal() from error


def _event(kind: str, fields: StartedEvent | ProgressEvent | Certificate) -> ServerSentEvent:
    return ServerSentEvent(event=kind, data=fields.model_dump(mode="json", exclude={"event"}))
