"""Drivers as Ray jobs, as far as no Ray is needed: what a cluster says is understood, and that it says nothing, too."""

import asyncio
import socket
from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace

import pytest
import ray

from spacte_service.jobs import ray_runner
from spacte_service.jobs.ray_runner import RayJobsRunner
from spacte_service.jobs.runner import DriverStatus, UnreachableError


@pytest.fixture
def threads():
    with ThreadPoolExecutor(1) as threads:
        yield threads


class Table:
    """A cluster's job table."""

    def __init__(self, **jobs):
        self.jobs = jobs
        self.stopped = []

    async def status(self, submission_id):
        return self.jobs.get(submission_id)

    async def stop(self, submission_id):
        self.stopped.append(submission_id)

    async def close(self):
        """Nothing runs."""


@pytest.mark.parametrize(
    ("status", "stage", "ended"),
    [
        ("PENDING", "waiting", False),
        ("RUNNING", "running", False),
        ("SUCCEEDED", "succeeded", True),
        ("FAILED", "failed", True),
        ("STOPPED", "stopped", True),
    ],
)
async def test_what_has_not_ended_is_stopped(status, stage, ended):
    runner, table = RayJobsRunner(), Table(it=(status, "a message"))
    runner._jobs = table
    assert await runner.status("it") == DriverStatus(stage, "a message")
    assert await runner.status("another") is None
    await runner.stop("it")
    await runner.stop("another")
    assert table.stopped == ([] if ended else ["it"])


@pytest.mark.parametrize("error", [ConnectionError("refused"), RuntimeError("no agent"), ValueError()])
async def test_a_cluster_that_fails_is_unreachable_and_looked_for_anew(monkeypatch, error):
    broken, whole = Table(), Table(it=("RUNNING", ""))

    async def fails(_):
        raise error

    monkeypatch.setattr(broken, "status", fails)
    found = iter([broken, whole])

    async def connect(_):
        return next(found)

    monkeypatch.setattr(ray_runner, "_connect", connect)
    runner = RayJobsRunner()
    with pytest.raises(UnreachableError, match=str(error) or "ValueError"):
        await runner.status("it")
    assert await runner.status("it") == DriverStatus("running")


async def test_a_cluster_that_does_not_answer_is_unreachable(monkeypatch):
    monkeypatch.setattr(ray_runner, "ANSWER_S", 0.05)
    silent = Table()

    async def never(_):
        await asyncio.Event().wait()

    monkeypatch.setattr(silent, "status", never)
    runner = RayJobsRunner()
    runner._jobs = silent
    with pytest.raises(UnreachableError, match="TimeoutError"):
        await runner.status("it")


class Untouched(ThreadPoolExecutor):
    """Threads that belong to others."""

    def submit(self, *_, **__):
        raise AssertionError("a thread of the loop's own was taken")


async def test_a_dashboard_that_is_frozen_takes_no_thread_for_long(monkeypatch):
    """It takes connections and never answers; requests need the loop's own threads."""
    monkeypatch.setattr(ray_runner, "REQUEST_S", 0.2)
    monkeypatch.setattr(ray, "is_initialized", lambda: True)
    asyncio.get_running_loop().set_default_executor(Untouched(1))
    runner = RayJobsRunner()
    with socket.create_server(("127.0.0.1", 0)) as frozen:
        node = SimpleNamespace(webui_url=f"127.0.0.1:{frozen.getsockname()[1]}")
        worker = SimpleNamespace(global_worker=SimpleNamespace(node=node))
        monkeypatch.setattr(ray_runner, "_part_of_ray", lambda _: worker)
        for _ in range(ray_runner.THREADS + 1):
            with pytest.raises(UnreachableError, match="timed out"):
                await runner.status("it")
    await runner.close()
    with pytest.raises(UnreachableError, match="after shutdown"):
        await runner.status("it")


async def test_without_a_cluster_nothing_is_reachable(monkeypatch):
    monkeypatch.setattr(ray, "is_initialized", lambda: False)
    with pytest.raises(UnreachableError, match="not connected"):
        await RayJobsRunner().status("it")


async def test_the_job_api_over_http(monkeypatch, threads):
    class Client:
        """In the place of Ray's own."""

        def __init__(self, url):
            self.url = url
            self.asked = []

        def get_job_info(self, submission_id):
            if submission_id == "unknown":
                raise RuntimeError("Request failed with status code 404: no such job")
            if submission_id == "ill":
                raise RuntimeError("Request failed with status code 500: oh")
            return SimpleNamespace(status=SimpleNamespace(value="FAILED"), message=None)

        def submit_job(self, **arguments):
            self.asked.append(arguments)

        def stop_job(self, submission_id):
            self.asked.append(submission_id)

    monkeypatch.setattr("ray.job_submission.JobSubmissionClient", Client)
    jobs = ray_runner._OverHttp("http://127.0.0.1:8265", threads)
    assert jobs._client.url == "http://127.0.0.1:8265"
    assert await jobs.status("known") == ("FAILED", "")
    assert await jobs.status("unknown") is None
    with pytest.raises(RuntimeError, match="500"):
        await jobs.status("ill")
    await jobs.submit("known", "python x")
    await jobs.stop("known")
    assert jobs._client.asked == [{"entrypoint": "python x", "submission_id": "known"}, "known"]


class Manager:
    """Ray's, as far as it watches over what it has started."""

    def __init__(self, *_):
        self.tasks = []

    async def submit_job(self, *, entrypoint, submission_id):
        self.tasks.append(asyncio.create_task(self._monitor_job(submission_id, job_supervisor=entrypoint)))

    async def get_job_info(self, _):
        return None

    async def _monitor_job(self, job_id, job_supervisor=None):
        await asyncio.sleep(3600)


async def test_nothing_of_rays_runs_on_this_loop_once_the_runner_is_closed(monkeypatch, threads):
    """A watch over a driver that outlived Ray would start another one, and wait for it in the middle of the loop."""
    parts = {
        "dashboard.modules.job.job_manager": SimpleNamespace(__name__="of-ray", JobManager=Manager),
        "_raylet": SimpleNamespace(GcsClient=lambda address: address),
    }
    monkeypatch.setattr(ray_runner, "_part_of_ray", parts.__getitem__)
    node = SimpleNamespace(gcs_address="here", get_logs_dir_path=lambda: "/nowhere")
    runner = RayJobsRunner()
    runner._jobs = jobs = ray_runner._InProcess(node, threads)
    await jobs.submit("job-1", "a command")
    (watch,) = jobs._manager.tasks
    await asyncio.sleep(0)
    assert not watch.done()
    await runner.close()
    assert watch.cancelled()
