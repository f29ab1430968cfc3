"""The routes of files and jobs as calls; see `_calls`."""

from collections.abc import Mapping
from typing import Any, BinaryIO

import httpx2

from ._calls import EVENTS, Call, answer, get, open_response, path_segment, post
from ._exceptions import InvalidArgumentError
from ._options import validated
from ._pages import page_query
from ._problems import retry_after
from .types import CertifyParams, Envelope, File, FileList, Job, JobInput, JobList, JobRequest, JobState, JobSummary


def upload_file(file: BinaryIO | bytes, filename: str) -> Call[File]:
    """`POST /v1/files`. The file is read while it is sent, from its beginning for every attempt."""
    return post("/v1/files", answer(File), body={"files": {"file": (filename, file)}})


def list_files(limit: int | None, after: str | None) -> Call[FileList]:
    """`GET /v1/files`."""
    return get("/v1/files", answer(FileList), query=page_query(limit=limit, after=after))


def get_file(file_id: str) -> Call[File]:
    """`GET /v1/files/{id}`."""
    return get(_file(file_id), answer(File))


def delete_file(file_id: str) -> Call[None]:
    """`DELETE /v1/files/{id}`."""
    return _delete(_file(file_id))


def create_job(
    source: JobInput | File | Mapping[str, Any] | None,
    base_job: str | None,
    params: CertifyParams | Mapping[str, Any] | None,
    options: Mapping[str, Any],
    metadata: Mapping[str, str] | None,
    key: str | None,
) -> Call[Job]:
    """`POST /v1/jobs`. Options win over the same ones in `params`."""
    named = params.model_dump(exclude_unset=True) if isinstance(params, CertifyParams) else params or {}
    fields: dict[str, Any] = {
        "input": {"type": "file", "file_id": source.id} if isinstance(source, File) else source,
        "base_job": base_job,
        "model": options.get("model"),
        "params": {**named, **{name: value for name, value in options.items() if name != "model"}},
        "metadata": metadata,
    }
    request = validated(JobRequest, {k: v for k, v in fields.items() if v is not None}, "jobs.create")
    body = request.model_dump(mode="json", exclude_unset=True)
    if request.input is not None:
        body["input"] = request.input.model_dump(mode="json", exclude_none=True)
    return post("/v1/jobs", answer(Job), key=key, body={"json": body})


def list_jobs(limit: int | None, after: str | None, state: JobState | None) -> Call[JobList]:
    """`GET /v1/jobs`."""
    return get("/v1/jobs", answer(JobList), query=page_query(limit=limit, after=after, state=state))


def get_job(job_id: str) -> Call[Job]:
    """`GET /v1/jobs/{id}`."""
    return get(_job(job_id), answer(Job))


def poll_job(job_id: str) -> Call[tuple[Job, float | None]]:
    """`GET /v1/jobs/{id}`, with the gateway's hint on when to ask again, in seconds."""
    read = answer(Job)
    return get(_job(job_id), lambda response: (read(response), retry_after(response)))


def act_on_job(job_id: str, verb: str) -> Call[Job]:
    """`POST /v1/jobs/{id}/cancel` or `/resume`."""
    return post(f"{_job(job_id)}/{verb}", answer(Job))


def delete_job(job_id: str) -> Call[None]:
    """`DELETE /v1/jobs/{id}`."""
    return _delete(_job(job_id))


def job_summary(job_id: str) -> Call[JobSummary]:
    """`GET /v1/jobs/{id}/summary`."""
    return get(f"{_job(job_id)}/summary", answer(JobSummary))


def job_results(job_id: str, after: int | None, *, follow: bool) -> Call[httpx2.Response]:
    """`GET /v1/jobs/{id}/results`, from the row after `after`."""
    if after is not None and after < 0:
        raise InvalidArgumentError("`after` is the row of a record that you have, from 0; leave it out at first.")
    query = ({} if after is None else {"after": str(after)}) | ({"follow": "true"} if follow else {})
    headers = {"Accept": "application/x-ndjson, application/problem+json"}
    return get(f"{_job(job_id)}/results", open_response, query=query, headers=headers, streams=True)


def job_results_file(job_id: str) -> Call[bytes]:
    """`GET /v1/jobs/{id}/results`, byte for byte: the signature of a job is over these."""
    headers = {"Accept": "application/x-ndjson, application/problem+json"}
    return get(f"{_job(job_id)}/results", lambda r: r.content, headers=headers)


def job_attestation(job_id: str) -> Call[Envelope]:
    """`GET /v1/jobs/{id}/attestation`."""
    return get(f"{_job(job_id)}/attestation", answer(Envelope))


def job_results_tsv(job_id: str) -> Call[str]:
    """`GET /v1/jobs/{id}/results?format=tsv`."""
    headers = {"Accept": "text/tab-separated-values, application/problem+json"}
    return get(f"{_job(job_id)}/results", lambda r: r.text, query={"format": "tsv"}, headers=headers)


def job_events(job_id: str, after: str | None) -> Call[httpx2.Response]:
    """`GET /v1/jobs/{id}/events`, from the event after the one of id `after`."""
    headers = EVENTS | ({"Last-Event-ID": after} if after else {})
    return get(f"{_job(job_id)}/events", open_response, headers=headers, streams=True)


def _delete(path: str) -> Call[None]:
    return Call(method="DELETE", path=path, read=lambda _: None)


def _file(file_id: str) -> str:
    return f"/v1/files/{path_segment(file_id, 'file id')}"


def _job(job_id: str) -> str:
    return f"/v1/jobs/{path_segment(job_id, 'job id')}"
