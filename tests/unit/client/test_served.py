"""Jobs and files by SDK and command line against `spacte serve`, a process of its own that runs them for real."""

import asyncio
import io
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest

import spacte_client as sdk
from spacte_client import AsyncClient, Client
from spacte_client.analysis import read_log
from spacte_client.types import CertificateRecord, ErrorRecord, JobStateEvent

from .conftest import Spacte

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory, make_checkpoint: Callable[..., str]) -> Iterator[str]:
    """The address of a gateway that runs jobs in processes of this machine."""
    folder = tmp_path_factory.mktemp("served")
    make_checkpoint(folder / "models" / "digits")
    command = [str(Path(sys.executable).parent / "spacte"), "serve", "--in-process", "--port", "0"]
    command += ["--models", str(folder / "models"), "--data-dir", str(folder / "data")]
    variables = {name: value for name, value in os.environ.items() if not name.startswith("SPACTE_")}
    with (
        (folder / "log").open("wb") as log,
        subprocess.Popen(command, stdout=subprocess.PIPE, stderr=log, text=True, env=variables) as server,
    ):
        try:
            assert server.stdout is not None
            line = server.stdout.readline()
            assert "http://" in line, (folder / "log").read_text()
            yield "http://" + line.split("http://", 1)[1].split()[0].rstrip("/.")
        finally:
            server.terminate()
            server.wait(200)


def test_a_job_from_its_submission_to_its_deletion(served: str, tmp_path: Path) -> None:
    with Client(served) as client:
        source = {"type": "dataset", "name": "digits", "stride": 50, "limit": 4}
        job = client.jobs.create(source, n0=10, n=100, metadata={"by": "test"}, idempotency_key="job-one")
        assert client.jobs.create(source, n0=10, n=100, metadata={"by": "test"}, idempotency_key="job-one") == job
        assert (job.state, job.metadata) == ("queued", {"by": "test"})
        states = [e.state for e in client.jobs.events(job.id) if isinstance(e, JobStateEvent)]
        assert states[-1] == "succeeded"
        job = client.jobs.wait(job.id, timeout=500)
        counts = job.counts
        assert (counts.total, counts.done, counts.errored, counts.remaining) == (4, 4, 0, 0)
        records = list(client.jobs.results(job.id))
        assert sorted(record.index for record in records) == [0, 50, 100, 150]
        assert all(isinstance(record, CertificateRecord) and sum(record.counts) == 100 for record in records)
        later = list(client.jobs.results(job.id, after=records[1].index, follow=True))
        assert later == records[2:]
        run = read_log(_tsv(client, job.id, tmp_path))
        summary = client.jobs.summary(job.id)
        assert summary.images == run.images == 4
        assert summary.acr == pytest.approx(run.acr, abs=1e-6)
        assert summary.certified_accuracy[0].value == run.correct_beyond(0) / 4
        assert job.id in [entry.id for entry in client.jobs.list(limit=1)]
        with pytest.raises(sdk.ConflictError):
            client.jobs.cancel(job.id)
        client.jobs.delete(job.id)
        with pytest.raises(sdk.NotFoundError):
            client.jobs.get(job.id)


def _tsv(client: Client, job_id: str, folder: Path) -> Path:
    path = folder / "log.tsv"
    client.jobs.results_tsv(job_id, path)
    return path


def test_an_uploaded_file_as_a_job_cancelled_and_resumed(served: str) -> None:
    packed = io.BytesIO()
    images = np.random.default_rng(0).integers(0, 256, (8, 1, 8, 8), dtype=np.uint8)
    np.savez(packed, images=images, labels=np.zeros(8, np.int64))

    async def run() -> None:
        async with AsyncClient(served) as client:
            file = await client.files.upload(packed.getvalue(), filename="x.npz")
            assert (file.kind, file.bytes) == ("npz", len(packed.getvalue()))
            assert (await client.files.upload(packed.getvalue())).id == file.id
            assert file.id in [entry.id async for entry in await client.files.list()]
            job = await client.jobs.create(file, n0=10, n=25_000)  # seconds of work on any machine
            first = await anext(client.jobs.results(job.id, follow=True))
            assert not isinstance(first, ErrorRecord)
            with pytest.raises(sdk.ConflictError):
                await client.files.delete(file.id)
            assert (await client.jobs.cancel(job.id)).state in ("cancelling", "cancelled")
            job = await client.jobs.wait(job.id, timeout=500)
            assert (job.state, job.counts.total) == ("cancelled", 8)
            kept = [record.index async for record in client.jobs.results(job.id)]
            assert first.index in kept
            await client.jobs.resume(job.id)
            job = await client.jobs.wait(job.id, timeout=500)
            assert (job.state, job.counts.done) == ("succeeded", 8)
            found = [record.index async for record in client.jobs.results(job.id)]
            assert sorted(found) == list(range(8))
            assert found[: len(kept)] == kept

    asyncio.run(run())


def test_the_command_line_submits_and_waits(served: str, spacte: Spacte, tmp_path: Path) -> None:
    options = ("--base-url", served)
    run = spacte("jobs", "submit", "digits", "--limit", "2", "--n", "50", "--wait", *options)
    assert run.status == 0
    name = run.out.split()[0]
    assert f"{name} succeeded: 2 of 2 images" in run.out
    out = tmp_path / "log.ndjson"
    assert spacte("jobs", "results", name, "--out", str(out), *options).status == 0
    assert read_log(out).images == 2
    assert "2 images" in spacte("jobs", "summary", name, *options).out
    assert spacte("jobs", "submit", "no-such-data-set", *options).status == 1
