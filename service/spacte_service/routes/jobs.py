"""`/v1/jobs`: data sets in, one certificate for every image out, however long it takes."""

import re
from collections.abc import AsyncGenerator, AsyncIterator
from dataclasses import dataclass
from functools import partial
from typing import Annotated, Any, Literal

from anyio import to_thread
from fastapi import APIRouter, Depends, Header, Path, Query, Request, Response
from fastapi.responses import StreamingResponse
from fastapi.sse import EventSourceResponse, ServerSentEvent

from spacte_client.types import TERMINAL_STATES, Job, JobList, JobRequest, JobState, JobSummary
from spacte_service.auth import TheCaller, identify
from spacte_service.gateway import Gateway, TheGateway
from spacte_service.idempotency import KEY
from spacte_service.jobs.reading import Reader
from spacte_service.jobs.wire import job_of
from spacte_service.openapi import json_body, problems
from spacte_service.problems import field_error

router = APIRouter(prefix="/v1/jobs", tags=["jobs"], dependencies=[Depends(identify)], responses=problems(401))

NDJSON = "application/x-ndjson"
TSV = "text/tab-separated-values"
PNG = "image/png"
LINES: dict[int | str, dict[str, Any]] = {
    200: {"description": "A `JobRecord` a line.", "content": {NDJSON: {}, TSV: {}}}
}
PICTURE: dict[int | str, dict[str, Any]] = {200: {"description": "The image as a PNG.", "content": {PNG: {}}}}
EVENT_ID = re.compile(r"[0-9]{1,18}")
"""What the store can hold as a number."""

POLL_AFTER_S = "2"
"""`Retry-After` of a job that is not at its end: a hint for those who ask again and again."""


@router.post(
    "", status_code=201, responses=problems(400, 404, 409, 413, 415, 422, 503), openapi_extra=json_body(JobRequest)
)
async def create_job(
    request: Request,
    response: Response,
    gateway: TheGateway,
    caller: TheCaller,
    idempotency_key: Annotated[
        str | None, Header(description="Sent again within a day, the same request gets the same job.")
    ] = None,
) -> Job:
    """Certify every image of an uploaded file, of a file that the service can reach, or of a data set.

    What is wrong with the request is answered here, and nothing is made then. What is wrong with an image is
    a result of the job.
    """
    if idempotency_key is not None and not KEY.fullmatch(idempotency_key):
        raise field_error("", "Send an `Idempotency-Key` of 1 to 255 visible ASCII characters.")
    with gateway.work():
        asked = await gateway.bodies.job(request)
        gateway.check_limits(asked.params)
        batch = await gateway.batch.opened()
        create = partial(batch.jobs.create, asked, caller.id, idempotency_key)
        job, replayed = await _in_thread(gateway, create)
        batch.reconciler.kick()
    response.headers["Location"] = f"/v1/jobs/{job.id}"
    if replayed:
        response.headers["Idempotency-Replayed"] = "true"
    return job


@router.get("", responses=problems(404, 422))
async def list_jobs(
    gateway: TheGateway,
    limit: Annotated[int, Query(ge=1, le=100, description="Entries in one page.")] = 20,
    after: Annotated[str | None, Query(description="The last id of the page before.")] = None,
    state: Annotated[JobState | None, Query(description="Only jobs in this state.")] = None,
) -> JobList:
    """Jobs, newest first."""
    batch = await gateway.batch.opened()
    return await _in_thread(gateway, batch.jobs.page, limit, after, state)


@router.get("/{job_id}", responses={304: {"description": "It is as it was."}} | problems(404))
async def get_job(
    job_id: str,
    response: Response,
    gateway: TheGateway,
    if_none_match: Annotated[str | None, Header(description="The `ETag` of an earlier answer.")] = None,
) -> Any:
    """A job's state and counts."""
    batch = await gateway.batch.opened()
    row = await _in_thread(gateway, batch.jobs.get, job_id)
    headers = {"ETag": f'W/"{row.seq}"'}
    if row.state not in TERMINAL_STATES:
        headers["Retry-After"] = POLL_AFTER_S
    if if_none_match is not None and headers["ETag"] in if_none_match:
        return Response(status_code=304, headers=headers)
    response.headers.update(headers)
    return job_of(row)


@router.post("/{job_id}/cancel", responses=problems(404, 409))
async def cancel_job(job_id: str, gateway: TheGateway) -> Job:
    """Stop a job between images; what it finished stays. Asking twice does no harm."""
    batch = await gateway.batch.opened()
    job = await _in_thread(gateway, batch.jobs.cancel, job_id)
    batch.reconciler.kick()
    return job


@router.post("/{job_id}/resume", responses=problems(404, 409, 503))
async def resume_job(job_id: str, gateway: TheGateway) -> Job:
    """Carry on with a job that failed, was cancelled or interrupted; finished images are not done again."""
    with gateway.work():
        batch = await gateway.batch.opened()
        job = await _in_thread(gateway, batch.jobs.resume, job_id)
        batch.reconciler.kick()
        return job


@router.delete("/{job_id}", status_code=204, responses=problems(404, 409))
async def delete_job(job_id: str, gateway: TheGateway) -> None:
    """Delete a job that is at its end, with its results."""
    batch = await gateway.batch.opened()
    await _in_thread(gateway, batch.jobs.remove, job_id)


@router.get("/{job_id}/results", response_class=StreamingResponse, responses=LINES | problems(404, 422))
async def job_results(
    job_id: str,
    gateway: TheGateway,
    after: Annotated[
        int | None, Query(ge=0, description="Go on behind the record of this image, the last one you have.")
    ] = None,
    follow: Annotated[bool, Query(description="Wait for what is still to come, to the job's end.")] = False,
    format: Annotated[  # noqa: A002  the name in the query
        Literal["ndjson", "tsv"], Query(description="`tsv`: all so far, in the field's columns, by index.")
    ] = "ndjson",
) -> StreamingResponse:
    """The finished images, in the order in which they were finished; also of a job that failed or runs."""
    batch = await gateway.batch.opened()
    await _in_thread(gateway, batch.jobs.get, job_id)
    if format == "tsv":
        return StreamingResponse(await _in_thread(gateway, batch.reader.tsv, job_id), media_type=TSV)
    start = await _in_thread(gateway, batch.reader.start_of, job_id, after)
    return StreamingResponse(batch.reader.results(job_id, start, follow=follow), media_type=NDJSON)


@router.get("/{job_id}/summary", responses=problems(404))
async def job_summary(job_id: str, gateway: TheGateway) -> JobSummary:
    """Certified accuracy with its intervals, ACR, and what may be claimed of all certificates together."""
    batch = await gateway.batch.opened()
    await _in_thread(gateway, batch.jobs.get, job_id)
    return await _in_thread(gateway, batch.reader.summary, job_id)


@router.get("/{job_id}/images/{index}", response_class=Response, responses=PICTURE | problems(400, 404, 422))
async def job_image(
    job_id: str,
    index: Annotated[int, Path(ge=0, description="The image's position in the input, as in its record.")],
    gateway: TheGateway,
) -> Response:
    """One image of a job's input, in the size and channels in which the model saw it, without noise."""
    batch = await gateway.batch.opened()
    row = await _in_thread(gateway, batch.jobs.get, job_id)
    png = await _in_thread(gateway, batch.pictures.png, row, index)
    return Response(png, media_type=PNG, headers={"Cache-Control": "private, max-age=3600"})


@dataclass(frozen=True, slots=True)
class Listening:
    """A job whose events are asked for, once it is seen to exist."""

    reader: Reader
    job_id: str
    after: int


async def open_events(
    job_id: str,
    gateway: TheGateway,
    last_event_id: Annotated[str | None, Header(description="The id of the last event you have.")] = None,
) -> AsyncGenerator[Listening]:
    """Find the job, so that what is wrong is answered with its own status.

    Raises:
        ProblemError: 404; 422, the id is none of ours.
    """
    if last_event_id is not None and not EVENT_ID.fullmatch(last_event_id):
        raise field_error("", "`Last-Event-ID` is the number of the last event you have; leave it out at first.")
    batch = await gateway.batch.opened()
    await _in_thread(gateway, batch.jobs.get, job_id)
    yield Listening(batch.reader, job_id, -1 if last_event_id is None else int(last_event_id))


@router.get("/{job_id}/events", response_class=EventSourceResponse, responses=problems(404, 422))
async def job_events(listening: Annotated[Listening, Depends(open_events)]) -> AsyncIterator[ServerSentEvent]:
    """A job's changes as they come: `state` and `progress`, until it is at its end.

    Events have numbers as their ids; whoever was away sends the last one as `Last-Event-ID`.
    """
    async for event in listening.reader.events(listening.job_id, listening.after):
        yield event


async def _in_thread(gateway: Gateway, function: Any, *arguments: Any) -> Any:
    return await to_thread.run_sync(function, *arguments, limiter=gateway.batch.threads)
