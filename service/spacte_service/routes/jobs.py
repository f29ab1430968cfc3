"""`/v1/jobs`: data sets in, one certificate for every image out, however long it takes."""

import re
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Depends, Header, Path, Query, Request, Response
from fastapi.responses import StreamingResponse
from fastapi.sse import EventSourceResponse, ServerSentEvent

from spacte_client.types import TERMINAL_STATES, Envelope, Job, JobList, JobRequest, JobState, JobSummary
from spacte_service.auth import TheCaller, TheStream, identify
from spacte_service.dependencies import IdempotencyKey, InFlight, TheBodies, TheJobs, TheOpenJobs, TheSigner
from spacte_service.jobs.reading import JobReader
from spacte_service.open_streams import OpenStream
from spacte_service.problems import field_error

from .descriptions import json_body, problems

router = APIRouter(
    prefix="/v1/jobs", tags=["jobs"], dependencies=[Depends(identify)], responses=problems(400, 401, 429)
)

NDJSON = "application/x-ndjson"
TSV = "text/tab-separated-values"
PNG = "image/png"
LINES: dict[int | str, dict[str, Any]] = {
    200: {"description": "A `JobRecord` a line.", "content": {NDJSON: {}, TSV: {}}}
}
PICTURE: dict[int | str, dict[str, Any]] = {
    200: {"description": "The image as a PNG.", "content": {PNG: {"schema": {"type": "string", "format": "binary"}}}}
}
EVENT_ID = re.compile(r"[0-9]{1,18}")  # what the store holds as a number of 64 bits
POLL_AFTER_S = "2"  # `Retry-After` of a job that is not at its end; chosen: twice the reconciler's period
PNG_CACHE = {"Cache-Control": "private, max-age=3600"}  # chosen: as long as one may look at a page


@router.post(
    "", status_code=201, responses=problems(400, 404, 409, 413, 415, 422, 503), openapi_extra=json_body(JobRequest)
)
async def create_job(
    request: Request,
    response: Response,
    _: InFlight,
    bodies: TheBodies,
    jobs: TheJobs,
    caller: TheCaller,
    idempotency_key: Annotated[
        IdempotencyKey, Header(description="Sent again within a day, the same request gets the same job.")
    ] = None,
) -> Job:
    """Certify every image of an uploaded file, of a file that the service can reach, or of a data set.

    What is wrong with the request is answered here, and nothing is made then. What is wrong with an image is
    a result of the job.
    """
    body = await bodies.job(request)
    opened = await jobs.opened()
    job, replayed = await opened.in_thread(opened.service.create, body, caller, idempotency_key)
    opened.reconciler.wake()
    response.headers["Location"] = f"/v1/jobs/{job.id}"
    if replayed:
        response.headers["Idempotency-Replayed"] = "true"
    return job


@router.get("", responses=problems(404, 422))
async def list_jobs(
    jobs: TheOpenJobs,
    caller: TheCaller,
    limit: Annotated[int, Query(ge=1, le=100, description="Entries in one page.")] = 20,
    after: Annotated[str | None, Query(description="The last id of the page before.")] = None,
    state: Annotated[JobState | None, Query(description="Only jobs in this state.")] = None,
) -> JobList:
    """Jobs, newest first: those of the key's project, else those of the key; of an admin key, all."""
    return await jobs.in_thread(jobs.service.page, limit, after, state, caller)


@router.get("/{job_id}", response_model=Job, responses={304: {"description": "It is as it was."}} | problems(404))
async def get_job(
    job_id: str,
    response: Response,
    jobs: TheOpenJobs,
    caller: TheCaller,
    if_none_match: Annotated[str | None, Header(description="The `ETag` of an earlier answer.")] = None,
) -> Job | Response:
    """A job's state and counts."""
    row = await jobs.in_thread(jobs.service.get, job_id, caller)
    job = jobs.service.shown(row)
    headers = {"ETag": f'W/"{row.seq}-{job.state}"'}
    if row.state not in TERMINAL_STATES:
        headers["Retry-After"] = POLL_AFTER_S
    if if_none_match is not None and headers["ETag"] in if_none_match:
        return Response(status_code=304, headers=headers)
    response.headers.update(headers)
    return job


@router.post("/{job_id}/cancel", responses=problems(404, 409))
async def cancel_job(job_id: str, jobs: TheOpenJobs, caller: TheCaller) -> Job:
    """Stop a job between images; what it finished stays. Asking twice does no harm."""
    job = await jobs.in_thread(jobs.service.cancel, job_id, caller)
    jobs.reconciler.wake()
    return job


@router.post("/{job_id}/resume", responses=problems(404, 409, 503))
async def resume_job(job_id: str, _: InFlight, jobs: TheOpenJobs, caller: TheCaller) -> Job:
    """Carry on with a job that failed, was cancelled or interrupted; finished images are not done again."""
    job = await jobs.in_thread(jobs.service.resume, job_id, caller)
    jobs.reconciler.wake()
    return job


@router.delete("/{job_id}", status_code=204, responses=problems(404, 409))
async def delete_job(job_id: str, jobs: TheOpenJobs, caller: TheCaller) -> None:
    """Delete a job that is at its end, with its results."""
    await jobs.in_thread(jobs.service.remove, job_id, caller)


@router.get("/{job_id}/results", response_class=StreamingResponse, responses=LINES | problems(404, 409, 422))
async def job_results(
    job_id: str,
    jobs: TheOpenJobs,
    caller: TheCaller,
    stream: TheStream,
    after: Annotated[
        int | None, Query(ge=0, description="Go on behind the record of this image, the last one you have.")
    ] = None,
    follow: Annotated[bool, Query(description="Wait for what is still to come, to the job's end.")] = False,
    format: Annotated[  # noqa: A002  the name in the query
        Literal["ndjson", "tsv"], Query(description="`tsv`: all so far, in the field's columns, by index.")
    ] = "ndjson",
) -> StreamingResponse:
    """The finished images, in the order in which they were finished; also of a job that failed or runs."""
    await jobs.in_thread(jobs.reader.check, await jobs.in_thread(jobs.service.get, job_id, caller))
    if format == "tsv":
        return StreamingResponse(await jobs.in_thread(jobs.reader.tsv, job_id), media_type=TSV)
    start = await jobs.in_thread(jobs.reader.start_of, job_id, after)
    return StreamingResponse(jobs.reader.results(job_id, start, stream, follow=follow), media_type=NDJSON)


@router.get("/{job_id}/summary", responses=problems(404, 409))
async def job_summary(job_id: str, jobs: TheOpenJobs, caller: TheCaller) -> JobSummary:
    """Certified accuracy with its intervals, ACR, and what may be claimed of all certificates together."""
    await jobs.in_thread(jobs.reader.check, await jobs.in_thread(jobs.service.get, job_id, caller))
    return await jobs.in_thread(jobs.reader.summary, job_id)


@router.get("/{job_id}/attestation", responses=problems(404, 409))
async def job_attestation(job_id: str, jobs: TheOpenJobs, caller: TheCaller, signer: TheSigner) -> Envelope:
    """The service's signature over a job as it is now: its results so far, its summary, its model and its input.

    An in-toto statement in a DSSE envelope; its subject `results.ndjson` is what `GET /v1/jobs/{id}/results` sends.
    """
    row = await jobs.in_thread(jobs.service.get, job_id, caller)
    await jobs.in_thread(jobs.reader.check, row)
    return await jobs.in_thread(jobs.reader.attestation, row, signer)


@router.get("/{job_id}/images/{index}", response_class=Response, responses=PICTURE | problems(400, 404, 422))
async def job_image(
    job_id: str,
    index: Annotated[int, Path(ge=0, description="The image's position in the input, as in its record.")],
    jobs: TheOpenJobs,
    caller: TheCaller,
) -> Response:
    """One image of a job's input, in the size and channels in which the model saw it, without noise."""
    row = await jobs.in_thread(jobs.service.get, job_id, caller)
    return Response(await jobs.in_thread(jobs.images.png, row, index), media_type=PNG, headers=PNG_CACHE)


@dataclass(frozen=True, slots=True)
class EventsRequest:
    """A request for the events of a job that exists."""

    reader: JobReader
    job_id: str
    after: int
    stream: OpenStream


async def find_events(
    job_id: str,
    jobs: TheOpenJobs,
    caller: TheCaller,
    stream: TheStream,
    last_event_id: Annotated[str | None, Header(description="The id of the last event you have.")] = None,
) -> EventsRequest:
    """Find the job, so that what is wrong is answered with its own status.

    Raises ProblemError: 404; 409, its results are not what its driver wrote; 422, the id is none of ours.
    """
    if last_event_id is not None and not EVENT_ID.fullmatch(last_event_id):
        raise field_error("", "`Last-Event-ID` is the number of the last event you have; leave it out at first.")
    await jobs.in_thread(jobs.reader.check, await jobs.in_thread(jobs.service.get, job_id, caller))
    return EventsRequest(jobs.reader, job_id, -1 if last_event_id is None else int(last_event_id), stream)


@router.get("/{job_id}/events", response_class=EventSourceResponse, responses=problems(404, 409, 422))
async def job_events(events: Annotated[EventsRequest, Depends(find_events)]) -> AsyncIterator[ServerSentEvent]:
    """A job's changes as they come: `state` and `progress`, until it is at its end.

    Events have numbers as their ids; whoever was away sends the last one as `Last-Event-ID`.
    """
    async for event in events.reader.events(events.job_id, events.after, events.stream):
        yield event
