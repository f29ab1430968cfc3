"""The routes of files and jobs as calls; see `_calls`."""

from collections.abc import Mapping
from typing import Any, BinaryIO

import httpx2

from ._calls import Call, answer, get, post, segment
from ._exceptions import InvalidArgumentError
from ._options import checked
from ._pages import page_query
from ._problems import retry_after
from .types import CertifyParams, File, FileList, Job, JobInput, JobList, JobRequest, JobState, JobSummary


def nothing(_: httpx2.Response) -> None:
    """The answer of a call that has none."""


def upload_file(file: BinaryIO | bytes, filename: str) -> Call[File]:
    """`POST /v1/files`. The file is read while it is sent, from its beginning for every attempt."""
    return post("/v1/files", answer(File), files={"file": (filename, file)})


def list_files(limit: int | None, after: str | None) -> Call[FileList]:
    """`GET /v1/files`."""
    return get("/v1/files", answer(FileList), query=page_query(limit, after))


def get_file(file_id: str) -> Call[File]:
    """`GET /v1/files/{id}`."""
    return get(_file(file_id), answer(File))


def delete_file(file_id: str) -> Call[None]:
    """`DELETE /v1/files/{id}`."""
    return Call(method="DELETE", path=_file(file_id), read=nothing)


def merged(params: CertifyParams | Mapping[str, Any] | None, options: Mapping[str, Any]) -> dict[str, Any]:
    """Options given as one object and by name, as one mapping; those by name win."""
    given = params.model_dump(exclude_unset=True) if isinstance(params, CertifyParams) else params or {}
    return {**given, **options}


def create_job(
    source: JobInput | File | Mapping[str, Any],
    model: str | None,
    params: Mapping[str, Any],
    metadata: Mapping[str, str] | None,
    key: str | None,
) -> Call[Job]:
    """`POST /v1/jobs`."""
    given = {"type": "file", "file_id": source.id} if isinstance(source, File) else source
    fields: dict[str, Any] = {"input": given, "model": model, "params": params, "metadata": metadata}
    request = checked(JobRequest, {k: v for k, v in fields.items() if v is not None}, "jobs.create")
    body = request.model_dump(mode="json", exclude_unset=True)
    body["input"] = request.input.model_dump(mode="json", exclude_none=True)
    return post("/v1/jobs", answer(Job), key=key, json=body)


def list_jobs(limit: int | None, after: str | None, state: JobState | None) -> Call[JobList]:
    """`GET /v1/jobs`."""
    query = page_query(limit, after)
    return get("/v1/jobs", answer(JobList), query=query | ({"state": state} if state else {}))


def get_job(job_id: str) -> Call[Job]:
    """`GET /v1/jobs/{id}`."""
    return get(_job(job_id), answer(Job))


def poll_job(job_id: str) -> Call[tuple[Job, float | None]]:
    """`GET /v1/jobs/{id}`, with the gateway's hint on when to ask again, in seconds."""
    read = answer(Job)

    def with_hint(response: httpx2.Response) -> tuple[Job, float | None]:
        return read(response), retry_after(response)

    return get(_job(job_id), with_hint)


def act_on_job(job_id: str, verb: str) -> Call[Job]:
    """`POST /v1/jobs/{id}/cancel` or `/resume`."""
    return post(f"{_job(job_id)}/{verb}", answer(Job))


def delete_job(job_id: str) -> Call[None]:
    """`DELETE /v1/jobs/{id}`."""
    return Call(method="DELETE", path=_job(job_id), read=nothing)


def job_summary(job_id: str) -> Call[JobSummary]:
    """`GET /v1/jobs/{id}/summary`."""
    return get(f"{_job(job_id)}/summary", answer(JobSummary))


def job_results(job_id: str, after: int | None, *, follow: bool) -> Call[None]:
    """`GET /v1/jobs/{id}/results`; its answer is read line by line.

    Raises:
        InvalidArgumentError: `after` is no row.
    """
    if after is not None and after < 0:
        raise InvalidArgumentError("`after` is the row of a record that you have, from 0; leave it out at first.")
    query: dict[str, str] = {}
    if after is not None:
        query["after"] = str(after)
    if follow:
        query["follow"] = "true"
    headers = {"Accept": "application/x-ndjson, application/problem+json"}
    return get(f"{_job(job_id)}/results", nothing, query=query, headers=headers)


def job_results_tsv(job_id: str) -> Call[str]:
    """`GET /v1/jobs/{id}/results?format=tsv`."""
    headers = {"Accept": "text/tab-separated-values, application/problem+json"}
    return get(f"{_job(job_id)}/results", lambda r: r.text, query={"format": "tsv"}, headers=headers)


def job_events(job_id: str, after: str | None) -> Call[None]:
    """`GET /v1/jobs/{id}/events`; its answer is read event by event."""
    headers = {"Accept": "text/event-stream, application/problem+json"}
    if after:
        headers["Last-Event-ID"] = after
    return get(f"{_job(job_id)}/events", nothing, headers=headers)


def _file(file_id: str) -> str:
    return f"/v1/files/{segment(file_id, 'file id')}"


def _job(job_id: str) -> str:
    return f"/v1/jobs/{segment(job_id, 'job id')}"
