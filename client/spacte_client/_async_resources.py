"""`client.models`, `client.files` and `client.jobs` on asyncio; `_resources` says what each method does."""

import asyncio
from collections.abc import AsyncIterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Unpack

from . import _calls as calls
from . import _calls_jobs as job_calls
from ._connection import AsyncConnection
from ._job_streams import Event, JobEvents, JobResults, Record, aread
from ._options import JobOptions
from ._pages import AsyncPage
from ._resources import Resource, pause_before_poll
from ._retries import Deadline, GracePeriod
from ._uploads import Upload, open_upload
from .types import CertifyParams, Envelope, File, Job, JobInput, JobState, JobSummary, Model


class AsyncModels(Resource[AsyncConnection]):
    """The models of the service."""

    async def list(self) -> Sequence[Model]:
        """Every model, whatever its state."""
        return await self._connection.send(calls.list_models())

    async def get(self, name: str) -> Model:
        """One model."""
        return await self._connection.send(calls.get_model(name))

    async def load(self, name: str, *, traffic: float | None = None, source: str | None = None) -> Model:
        """Load a model, or replace it by what its folder holds now; needs an admin key. Returns at once.

        With `traffic`, from 0 to 1, the version that answers stays, and the new one answers that part of the requests.
        With `source`, URI#sha256=VERSION, the model is fetched first, from below a prefix that the operator allows.
        """
        return await self._connection.send(calls.load_model(name, traffic, source))

    async def unload(self, name: str) -> Model:
        """Unload a model; needs an admin key. Returns at once."""
        return await self._connection.send(calls.unload_model(name))

    async def divide_traffic(self, name: str, weights: Mapping[str, float]) -> Model:
        """Divide a model's requests by weight among its loaded versions; needs an admin key.

        `weights` are by version, or at least six first digits of one; a version that is not named is unloaded.
        """
        return await self._connection.send(calls.divide_traffic(name, weights))


class AsyncFiles(Resource[AsyncConnection]):
    """Uploaded files."""

    async def upload(self, source: Upload, *, filename: str | None = None) -> File:
        """Upload a path, bytes or an open binary file."""
        with open_upload(source) as (file, name):
            return await self._connection.send(job_calls.upload_file(file, filename or name))

    async def list(self, *, limit: int | None = None, after: str | None = None) -> AsyncPage[File]:
        """A page of files, newest first; iterate it with `async for` for all of them."""
        listed = await self._connection.send(job_calls.list_files(limit, after))
        return AsyncPage(listed.data, listed, lambda last: self.list(limit=limit, after=last))

    async def get(self, file_id: str) -> File:
        """One file."""
        return await self._connection.send(job_calls.get_file(file_id))

    async def delete(self, file_id: str) -> None:
        """Delete a file."""
        await self._connection.send(job_calls.delete_file(file_id))


class AsyncJobs(Resource[AsyncConnection]):
    """Batch jobs."""

    async def create(
        self,
        input: JobInput | File | Mapping[str, Any] | None = None,  # noqa: A002  the name in the API
        *,
        base_job: str | None = None,
        params: CertifyParams | Mapping[str, Any] | None = None,
        metadata: Mapping[str, str] | None = None,
        idempotency_key: str | None = None,
        **options: Unpack[JobOptions],
    ) -> Job:
        """Submit a job; see `Jobs.create`."""
        return await self._connection.send(
            job_calls.create_job(input, base_job, params, options, metadata, idempotency_key)
        )

    async def list(
        self, *, limit: int | None = None, after: str | None = None, state: JobState | None = None
    ) -> AsyncPage[Job]:
        """A page of jobs, newest first; iterate it with `async for` for all of them."""
        listed = await self._connection.send(job_calls.list_jobs(limit, after, state))
        return AsyncPage(listed.data, listed, lambda last: self.list(limit=limit, after=last, state=state))

    async def get(self, job_id: str) -> Job:
        """One job."""
        return await self._connection.send(job_calls.get_job(job_id))

    async def cancel(self, job_id: str) -> Job:
        """Stop a job; what is finished stays."""
        return await self._connection.send(job_calls.act_on_job(job_id, "cancel"))

    async def resume(self, job_id: str) -> Job:
        """Go on with a job that failed, was cancelled or was interrupted."""
        return await self._connection.send(job_calls.act_on_job(job_id, "resume"))

    async def delete(self, job_id: str) -> None:
        """Delete a job that has ended, with its results."""
        await self._connection.send(job_calls.delete_job(job_id))

    async def wait(self, job_id: str, *, timeout: float | None = None, poll: float | None = None) -> Job:  # noqa: ASYNC109 - the blocking twin's name
        """The job once it has ended; see `Jobs.wait`."""
        deadline, grace = Deadline(timeout), GracePeriod()
        job, hint = await self._connection.send(job_calls.poll_job(job_id))
        while not job.ended:
            await asyncio.sleep(pause_before_poll(job, poll, hint, deadline))
            hint = None
            with grace:
                job, hint = await self._connection.send(job_calls.poll_job(job_id))
        return job

    def results(self, job_id: str, *, after: int | None = None, follow: bool = False) -> AsyncIterator[Record]:
        """Finished images; see `Jobs.results`."""
        return aread(self._connection, JobResults(job_id, after, follow=follow))

    async def results_tsv(self, job_id: str, path: str | Path | None = None) -> str:
        """Finished images in the field's columns, also into a file."""
        text = await self._connection.send(job_calls.job_results_tsv(job_id))
        if path is not None:
            await asyncio.to_thread(Path(path).write_text, text, encoding="utf-8", newline="")
        return text

    def events(self, job_id: str, *, after: str | None = None) -> AsyncIterator[Event]:
        """Changes of state and progress until the job ends; see `Jobs.events`."""
        return aread(self._connection, JobEvents(job_id, after))

    async def results_file(self, job_id: str, path: str | Path) -> None:
        """Finished images byte for byte; see `Jobs.results_file`."""
        content = await self._connection.send(job_calls.job_results_file(job_id))
        await asyncio.to_thread(Path(path).write_bytes, content)

    async def attestation(self, job_id: str) -> Envelope:
        """The service's signature over a job; see `Jobs.attestation`."""
        return await self._connection.send(job_calls.job_attestation(job_id))

    async def summary(self, job_id: str) -> JobSummary:
        """Certified accuracy at a grid of radii, with its interval."""
        return await self._connection.send(job_calls.job_summary(job_id))
