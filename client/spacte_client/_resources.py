"""`client.models`, `client.files` and `client.jobs`, blocking."""

import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Generic, TypeVar, Unpack

from . import _calls as calls
from . import _calls_jobs as job_calls
from ._connection import AsyncConnection, Connection
from ._constants import POLL_S
from ._exceptions import WaitTimeoutError
from ._job_streams import Event, JobEvents, JobResults, Record, read
from ._options import JobOptions
from ._pages import Page
from ._retries import Deadline, GracePeriod
from ._uploads import Upload, open_upload
from .types import CertifyParams, Envelope, File, Job, JobInput, JobState, JobSummary, Model

C = TypeVar("C", Connection, AsyncConnection)


class Resource(Generic[C]):
    """Routes of one kind of thing."""

    def __init__(self, connection: C) -> None:
        self._connection = connection


class Models(Resource[Connection]):
    """The models of the service."""

    def list(self) -> Sequence[Model]:
        """Every model, whatever its state."""
        return self._connection.send(calls.list_models())

    def get(self, name: str) -> Model:
        """One model; `NotFoundError` where there is none of that name."""
        return self._connection.send(calls.get_model(name))

    def load(self, name: str, *, traffic: float | None = None, source: str | None = None) -> Model:
        """Load a model, or replace it by what its folder holds now; needs an admin key. Returns at once.

        With `traffic`, from 0 to 1, the version that answers stays, and the new one answers that part of the requests.
        With `source`, URI#sha256=VERSION, the model is fetched first, from below a prefix that the operator allows.
        """
        return self._connection.send(calls.load_model(name, traffic, source))

    def unload(self, name: str) -> Model:
        """Unload a model; needs an admin key. Returns at once."""
        return self._connection.send(calls.unload_model(name))

    def divide_traffic(self, name: str, weights: Mapping[str, float]) -> Model:
        """Divide a model's requests by weight among its loaded versions; needs an admin key.

        `weights` are by version, or at least six first digits of one; a version that is not named is unloaded.
        """
        return self._connection.send(calls.divide_traffic(name, weights))


class Files(Resource[Connection]):
    """Uploaded files."""

    def upload(self, source: Upload, *, filename: str | None = None) -> File:
        """Upload a path, bytes or an open binary file; the same bytes twice give the same file."""
        with open_upload(source) as (file, name):
            return self._connection.send(job_calls.upload_file(file, filename or name))

    def list(self, *, limit: int | None = None, after: str | None = None) -> Page[File]:
        """A page of `limit` files, newest first, from the one after id `after`; iterate it for all of them."""
        listed = self._connection.send(job_calls.list_files(limit, after))
        return Page(listed.data, listed, lambda last: self.list(limit=limit, after=last))

    def get(self, file_id: str) -> File:
        """One file."""
        return self._connection.send(job_calls.get_file(file_id))

    def delete(self, file_id: str) -> None:
        """Delete a file; `ConflictError` while a job uses it."""
        self._connection.send(job_calls.delete_file(file_id))


class Jobs(Resource[Connection]):
    """Batch jobs."""

    def create(
        self,
        input: JobInput | File | Mapping[str, Any] | None = None,  # noqa: A002  the name in the API
        *,
        base_job: str | None = None,
        params: CertifyParams | Mapping[str, Any] | None = None,
        metadata: Mapping[str, str] | None = None,
        idempotency_key: str | None = None,
        **options: Unpack[JobOptions],
    ) -> Job:
        """Submit a job: a certificate for every image of `input`.

        Args:
            input: an uploaded file, or a job input such as `{"type": "dataset", "name": "digits"}`.
            base_job: in place of it, the id of a job whose images are certified again for a changed model: its
                certificates are carried over where that takes fewer noises. Its options are taken over.
            params: options of every certificate as one object, as the API has them.
            metadata: the caller's own notes, kept with the job.
            idempotency_key: the same key within 24 hours gives the same job; made where none is given.
            options: those of `params` by name; see `JobOptions`. They win where both are given.
        """
        return self._connection.send(job_calls.create_job(input, base_job, params, options, metadata, idempotency_key))

    def list(self, *, limit: int | None = None, after: str | None = None, state: JobState | None = None) -> Page[Job]:
        """A page of `limit` jobs, of one state or of all, newest first, from the one after id `after`.

        Iterate it for all of them.
        """
        listed = self._connection.send(job_calls.list_jobs(limit, after, state))
        return Page(listed.data, listed, lambda last: self.list(limit=limit, after=last, state=state))

    def get(self, job_id: str) -> Job:
        """One job."""
        return self._connection.send(job_calls.get_job(job_id))

    def cancel(self, job_id: str) -> Job:
        """Stop a job; what is finished stays. `ConflictError` where it has ended."""
        return self._connection.send(job_calls.act_on_job(job_id, "cancel"))

    def resume(self, job_id: str) -> Job:
        """Go on with a job that failed, was cancelled or was interrupted; what is finished is not redone."""
        return self._connection.send(job_calls.act_on_job(job_id, "resume"))

    def delete(self, job_id: str) -> None:
        """Delete a job that has ended, with its results."""
        self._connection.send(job_calls.delete_job(job_id))

    def wait(self, job_id: str, *, timeout: float | None = None, poll: float | None = None) -> Job:
        """The job once it has ended, in whichever state.

        A gateway that goes away in the meantime, as for a restart, is waited for up to five minutes.

        Args:
            timeout: seconds to wait at the most.
            poll: seconds between two polls; the gateway's hint where None.

        Raises:
            WaitTimeoutError: it has not ended in time. The job goes on.
        """
        deadline, grace = Deadline(timeout), GracePeriod()
        job, hint = self._connection.send(job_calls.poll_job(job_id))
        while not job.ended:
            time.sleep(pause_before_poll(job, poll, hint, deadline))
            hint = None
            with grace:
                job, hint = self._connection.send(job_calls.poll_job(job_id))
        return job

    def results(self, job_id: str, *, after: int | None = None, follow: bool = False) -> Iterator[Record]:
        """Finished images, resumed where they were when the connection breaks.

        Args:
            after: only what comes after this row of the input.
            follow: go on with images as they finish, until the job ends.
        """
        return read(self._connection, JobResults(job_id, after, follow=follow))

    def results_tsv(self, job_id: str, path: str | Path | None = None) -> str:
        """Finished images in the columns `idx label predict radius correct time`, also into a file."""
        text = self._connection.send(job_calls.job_results_tsv(job_id))
        if path is not None:
            Path(path).write_text(text, encoding="utf-8", newline="")
        return text

    def events(self, job_id: str, *, after: str | None = None) -> Iterator[Event]:
        """Changes of state and progress until the job ends, resumed when the connection breaks."""
        return read(self._connection, JobEvents(job_id, after))

    def results_file(self, job_id: str, path: str | Path) -> None:
        """Finished images byte for byte as the service sends them, into a file: what `attestation` is over."""
        Path(path).write_bytes(self._connection.send(job_calls.job_results_file(job_id)))

    def attestation(self, job_id: str) -> Envelope:
        """The service's signature over a job. `NotFoundError` where the service has no signing keys."""
        return self._connection.send(job_calls.job_attestation(job_id))

    def summary(self, job_id: str) -> JobSummary:
        """Certified accuracy at a grid of radii, with its interval, over what is finished."""
        return self._connection.send(job_calls.job_summary(job_id))


def pause_before_poll(job: Job, poll: float | None, hint: float | None, deadline: Deadline) -> float:
    """Seconds until a job is asked for again: the caller's, the gateway's, or `POLL_S`; raises at the deadline."""
    if deadline.left() <= 0:
        done, total = job.counts.done, job.counts.total
        raise WaitTimeoutError(
            f"Job {job.id} is still {job.state}, at {done} of {total or 'an unknown number of'} images; "
            "wait longer, it goes on by itself."
        )
    pause = poll if poll is not None else hint if hint is not None else POLL_S
    return min(pause, deadline.left())
