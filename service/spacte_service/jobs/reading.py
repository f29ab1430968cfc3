"""Reads a job's results, events and summary: from a cursor on, and followed to the end."""

import asyncio
import hashlib
import json
from collections.abc import AsyncGenerator, Iterable, Iterator
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from anyio import to_thread
from fastapi.sse import ServerSentEvent

from spacte_client.signatures import JOB
from spacte_client.types import TERMINAL_STATES, Envelope, JobSummary
from spacte_service.drain import Drain
from spacte_service.open_streams import OpenStream
from spacte_service.problems import ProblemError, field_error
from spacte_service.signing_keys import Signer

from .data_folder import DataFolder
from .wire import job_of

if TYPE_CHECKING:
    from spacte_service.store import Store
    from spacte_service.store.schema import JobRow

PIECE_BYTES = 1 << 20  # chosen: about a thousand records are sent at a time
REMEDY = "Resume the job: it keeps what is whole and draws the other images again, to the same votes."
CHECKS_KEPT = 64  # chosen: as many jobs are read at a time
POLL_S = 0.5  # chosen: a driver writes progress about once a second
SUMMARIES_KEPT = 64  # chosen: more than the page of jobs compares


@dataclass(frozen=True)
class JobReader:
    """What is read of jobs; a shutdown ends what is followed, and so does the end of the caller's key."""

    _store: "Store"
    _folder: DataFolder
    _drain: Drain

    def check(self, row: "JobRow") -> None:
        """See that a job's results are what its driver wrote. It blocks. Raises ProblemError: 409, they are not."""
        path = self._results(row.id)
        wrong = _wrong(path, row)
        if wrong and self._folder.job(row.id).renew():
            wrong = _wrong(path, row)
        if wrong:
            sentence = f"The results of {row.id} are not what its driver wrote: {wrong}. "
            raise ProblemError("job_state", sentence + REMEDY)

    def start_of(self, job_id: str, after: int | None) -> int:
        """Where in the results log to go on after the record of image `after`. It blocks.

        Raises ProblemError: 422, there is no such record.
        """
        if after is None:
            return 0
        path = self._results(job_id)
        if path.exists():
            with path.open("rb") as file:
                for line in file:
                    if line.endswith(b"\n") and json.loads(line)["index"] == after:
                        return file.tell()
        raise field_error("/after", f"Image {after} of {job_id} has no result; give the last index you have.")

    async def results(self, job_id: str, start: int, stream: OpenStream, *, follow: bool) -> AsyncGenerator[bytes]:
        """Whole lines of the results log from an offset on; with `follow`, until the job is at its end.

        Records come in the order in which the images were finished.
        """
        while True:
            ended = not follow or await to_thread.run_sync(self._is_over, job_id)
            path = await to_thread.run_sync(self._results, job_id)
            while lines := await to_thread.run_sync(_whole_lines, path, start):
                start += len(lines)
                yield lines
            if ended or self._drain.begun or stream.revoked:
                return
            await asyncio.sleep(POLL_S)

    async def events(self, job_id: str, after: int, stream: OpenStream) -> AsyncGenerator[ServerSentEvent]:
        """Events with a number above `after`, until the job is at its end."""
        while True:
            over = await to_thread.run_sync(self._is_over, job_id)
            for row in await to_thread.run_sync(self._store.jobs.events, job_id, after):
                after = row.seq
                yield ServerSentEvent(event=row.event, id=str(row.seq), data=row.data)
            if over or self._drain.begun or stream.revoked:
                return
            await asyncio.sleep(POLL_S)

    def tsv(self, job_id: str) -> Iterator[str]:
        """The results so far in the field's columns, by index. It blocks."""
        from spacte_workers.batch.results import read_results
        from spacte_workers.batch.summary import tsv_lines

        return tsv_lines(read_results(self._results(job_id)))

    def summary(self, job_id: str) -> JobSummary:
        """What the finished images show together, now. It blocks."""
        path = self._results(job_id)
        return _summary(path.parent, path.stat().st_size if path.exists() else 0)

    def attestation(self, row: "JobRow", signer: Signer) -> Envelope:
        """The signature over a job, its summary and the whole lines of its results. It blocks.

        Raises ProblemError: 404, the service signs nothing.
        """
        path = self._results(row.id)
        lines = path.read_bytes() if path.exists() else b""
        lines = lines[: lines.rfind(b"\n") + 1]
        records = [json.loads(line) for line in lines.splitlines()]
        digests = {"results.ndjson": hashlib.sha256(lines).hexdigest(), f"model/{row.model}": row.model_version}
        if row.source.get("sha256"):
            digests["input"] = row.source["sha256"]
        summary = _summary_of(records)
        predicate = {"job": job_of(row).model_dump(mode="json"), "summary": summary.model_dump(mode="json")}
        signed = signer.sign(JOB, predicate, digests)
        if signed is None:
            raise ProblemError("not_found", "This service signs nothing; have the operator give it signing keys.")
        return signed

    def _results(self, job_id: str) -> Path:
        """The file of a job's results, as they are now. It blocks."""
        folder = self._folder.job(job_id)
        folder.refresh()
        return folder.results_file

    def _is_over(self, job_id: str) -> bool:
        row = self._store.jobs.get(job_id)
        return row is None or row.state in TERMINAL_STATES


def _wrong(path: Path, row: "JobRow") -> str | None:
    """What is wrong with a job's results, if anything."""
    stat = path.stat() if path.exists() else None
    if stat is None:
        return "their file is gone" if row.done else None
    return _changed(path, stat.st_size, stat.st_mtime_ns, row.done, row.results_sha256, row.state)


@lru_cache(CHECKS_KEPT)
def _changed(path: Path, _size: int, _mtime: int, count: int, sha256: str | None, state: str) -> str | None:
    """What is wrong with a log, if anything. A driver's last line may be torn until the job has succeeded."""
    from spacte_workers.batch.chains import ChangedLogError, check_log

    try:
        check_log(path, count, sha256, ended=state == "succeeded")
    except ChangedLogError as error:
        return str(error)
    return None


@lru_cache(SUMMARIES_KEPT)
def _summary(folder: Path, size: int) -> JobSummary:  # noqa: ARG001  results only grow: another size, another summary
    from spacte_workers.batch.job_folder import JobFolder
    from spacte_workers.batch.summary import summarize_folder

    return summarize_folder(JobFolder(folder))


def _summary_of(records: Iterable[dict[str, Any]]) -> JobSummary:
    from spacte_workers.batch.summary import summarize

    return summarize(records)


def _whole_lines(path: Path, start: int) -> bytes:
    """The next whole lines from an offset on, about a megabyte; empty where there are none yet."""
    try:
        with path.open("rb") as file:
            file.seek(start)
            piece = file.read(PIECE_BYTES)
            while piece and b"\n" not in piece:  # a line longer than a piece
                more = file.read(PIECE_BYTES)
                if not more:
                    return b""
                piece += more
    except FileNotFoundError:
        return b""
    return piece[: piece.rfind(b"\n") + 1]
