"""Drivers as Ray jobs, supervised by the cluster: they outlive the gateway.

A cluster is asked through its job API (`JobSubmissionClient`). A Ray of the gateway's own has no dashboard,
and so no such API: starting one takes 12 s and a quarter of a gigabyte. There the job manager that the API
calls is called directly; supervisors, job table and logs are the same.
"""

import asyncio
import logging
import shlex
from collections.abc import Callable, Coroutine, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from importlib import import_module
from typing import Any, TypeVar, cast

from .runner import DriverStatus, Stage, UnreachableError

STAGES: dict[str, Stage] = {  # by Ray's `JobStatus`
    "PENDING": "waiting",
    "RUNNING": "running",
    "SUCCEEDED": "succeeded",
    "FAILED": "failed",
    "STOPPED": "stopped",
}

T = TypeVar("T")

ANSWER_S = 20.0  # a cluster that has not answered by then is unreachable; chosen: a connection and a request
REQUEST_S = 10.0  # a request that is silent for so long is given up; chosen: the job API answers in milliseconds
SLIVER = 0.001  # of a node's own resource, of which it has 1; chosen: a thousand drivers fit
THREADS = 2  # chosen: one request at a time, and one that a frozen cluster holds


class RayJobsRunner:
    """Ray Jobs on the cluster that this process is connected to.

    Args:
        here: drivers run on the node of this process; by default on the head's.
    """

    def __init__(self, *, here: bool = False) -> None:
        self._here = here
        self._jobs: _OverHttp | _InProcess | None = None
        # Not the loop's own threads, which requests need: a cluster that is frozen must not take them.
        self._threads = ThreadPoolExecutor(THREADS, thread_name_prefix="ray-jobs")

    async def submit(self, submission_id: str, command: Sequence[str]) -> None:
        """Start a driver, unless it has been submitted already.

        It is told which cluster it belongs to: Ray guesses where several run on its machine, and takes any.
        """
        import ray

        if await self.status(submission_id) is None:
            context: Any = ray.get_runtime_context()
            entrypoint = shlex.join(["env", f"RAY_ADDRESS={context.gcs_address}", *command])
            place = _this_node() if self._here else None
            await self._ask(lambda jobs: jobs.submit(submission_id, entrypoint, place))

    async def status(self, submission_id: str) -> DriverStatus | None:
        """What the cluster's job table says."""
        found = await self._ask(lambda jobs: jobs.status(submission_id))
        return found and DriverStatus(STAGES[found[0]], found[1])

    async def stop(self, submission_id: str) -> None:
        """SIGTERM, then SIGKILL three seconds later (`RAY_JOB_STOP_WAIT_TIME_S`)."""
        status = await self.status(submission_id)
        if status is not None and not status.ended:
            await self._ask(lambda jobs: jobs.stop(submission_id))

    async def close(self) -> None:
        """Drivers run on."""
        await self._disconnect()
        self._threads.shutdown(wait=False, cancel_futures=True)

    async def _ask(self, call: "Callable[[_OverHttp | _InProcess], Coroutine[Any, Any, T]]") -> T:
        try:
            async with asyncio.timeout(ANSWER_S):
                if self._jobs is None:
                    self._jobs = await _connect(self._threads)
                return await call(self._jobs)
        except (OSError, RuntimeError, TimeoutError, ValueError) as error:
            await self._disconnect()  # the cluster may come back at another address
            raise UnreachableError(str(error).strip() or type(error).__name__) from error

    async def _disconnect(self) -> None:
        jobs, self._jobs = self._jobs, None
        if jobs is not None:
            await jobs.close()


def _this_node() -> dict[str, float]:
    """Some of the resource that Ray gives this node alone: a driver that asks for it runs here."""
    import ray

    context: Any = ray.get_runtime_context()
    nodes = cast("list[dict[str, Any]]", ray.nodes())
    own: list[str] = next(list(node["Resources"]) for node in nodes if node["NodeID"] == context.get_node_id())
    return {next(name for name in own if name.startswith("node:") and not name.endswith("__")): SLIVER}


def _request(submission_id: str, entrypoint: str, place: dict[str, float] | None) -> dict[str, Any]:
    asked: dict[str, Any] = {"submission_id": submission_id, "entrypoint": entrypoint}
    return asked | ({"entrypoint_resources": place} if place else {})


async def _connect(threads: ThreadPoolExecutor) -> "_OverHttp | _InProcess":
    import ray

    if not ray.is_initialized():
        raise ConnectionError("Ray is not connected")
    node: Any = _part_of_ray("_private.worker").global_worker.node
    if node.webui_url:
        return await _in_thread(threads, _OverHttp, f"http://{node.webui_url}", threads)
    return _InProcess(node, threads)


async def _in_thread(threads: ThreadPoolExecutor, function: Callable[..., T], *arguments: Any) -> T:
    return await asyncio.get_running_loop().run_in_executor(threads, function, *arguments)


def _part_of_ray(name: str) -> Any:
    """A module of Ray's that has no types."""
    return import_module(f"ray.{name}")


def _status_of(info: Any) -> tuple[str, str] | None:
    """Status and message of Ray's `JobInfo` or `JobDetails`."""
    return info and (str(info.status.value), info.message or "")


def _client(url: str) -> Any:
    """Ray's client, but its requests end: Ray waits for their answers without a limit."""
    from ray.job_submission import JobSubmissionClient

    class Client(JobSubmissionClient):
        def _do_request(self, *arguments: Any, **options: Any) -> Any:
            parent: Any = super()
            return parent._do_request(*arguments, **({"timeout": REQUEST_S} | options))  # noqa: SLF001  the parent's own, without its loose types

    return Client(url)


class _OverHttp:
    """The public client; it blocks, so each call goes to a thread."""

    def __init__(self, url: str, threads: ThreadPoolExecutor) -> None:
        self._client = _client(url)
        self._threads = threads

    async def submit(self, submission_id: str, entrypoint: str, place: dict[str, float] | None = None) -> None:
        submit = partial(self._client.submit_job, **_request(submission_id, entrypoint, place))
        await _in_thread(self._threads, submit)

    async def status(self, submission_id: str) -> tuple[str, str] | None:
        try:
            return _status_of(await _in_thread(self._threads, self._client.get_job_info, submission_id))
        except RuntimeError as error:
            if "status code 404" in str(error):
                return None
            raise

    async def stop(self, submission_id: str) -> None:
        await _in_thread(self._threads, self._client.stop_job, submission_id)

    async def close(self) -> None:
        """Nothing of it runs by itself."""


class _InProcess:
    """What the job API calls behind HTTP; its background tasks live on this event loop."""

    def __init__(self, node: Any, threads: ThreadPoolExecutor) -> None:
        self._threads = threads
        module = _part_of_ray("dashboard.modules.job.job_manager")
        logging.getLogger(module.__name__).setLevel(logging.WARNING)
        gcs = _part_of_ray("_raylet").GcsClient(address=node.gcs_address)
        self._manager: Any = module.JobManager(gcs, node.get_logs_dir_path())
        self._monitors: set[asyncio.Task[Any] | None] = set()
        self._manager._monitor_job = self._kept(self._manager._monitor_job)  # noqa: SLF001

    def _kept(self, monitor: Callable[..., Coroutine[Any, Any, None]]) -> Callable[..., Coroutine[Any, Any, None]]:
        """Ray's monitor of a driver, so that it can be ended: it would start another Ray after ours has ended."""

        async def kept(*arguments: Any, **options: Any) -> None:
            task = asyncio.current_task()
            self._monitors.add(task)
            try:
                await monitor(*arguments, **options)
            finally:
                self._monitors.discard(task)

        return kept

    async def submit(self, submission_id: str, entrypoint: str, place: dict[str, float] | None = None) -> None:
        await self._manager.submit_job(**_request(submission_id, entrypoint, place))

    async def status(self, submission_id: str) -> tuple[str, str] | None:
        return _status_of(await self._manager.get_job_info(submission_id))

    async def stop(self, submission_id: str) -> None:
        await _in_thread(self._threads, self._manager.stop_job, submission_id)

    async def close(self) -> None:
        """End what runs on this event loop; the drivers and their supervisors run on."""
        monitors = [task for task in self._monitors if task is not None]
        for task in monitors:
            task.cancel()
        await asyncio.gather(*monitors, return_exceptions=True)
