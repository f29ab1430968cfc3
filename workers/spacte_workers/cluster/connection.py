"""The connection to Ray: start a local one or join a cluster, without disturbing the event loop.

`ray.init` blocks for up to ten seconds, on the main thread replaces Python's handler of SIGTERM (so that a server would
no longer drain), and ties the processes it starts to the life of the *thread* that called it (PR_SET_PDEATHSIG). So all
of it runs on one thread of its own, which lives as long as the connection.
"""

import asyncio
import logging
import os
import queue
import signal
import socket
import threading
from collections.abc import Callable
from concurrent.futures import Future
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any, TypeVar

import ray
from ray._private import services

from spacte_core.ray_address import RayAddressError, cluster_address
from spacte_workers.errors import ClusterError

from .head import ANSWER_S, check_head
from .local_node import LocalFolder, on_loopback

_T = TypeVar("_T")

LOOPBACK_HOSTS = ("localhost", "127.0.0.1", "::1")

_START_TRIES = 3  # chosen: each takes at most 30 s, Ray's own limit, and a busy machine seldom fails twice


class _SlowStartError(ClusterError):
    """A local Ray did not come up in time, as happens on a machine that is busy."""


@dataclass(frozen=True)
class RaySettings:
    """Which Ray to use.

    Attributes:
        address: `host:port` of a cluster that this machine belongs to, `auto`, or `local` to start one here; None takes
            `RAY_ADDRESS`, and starts a local Ray where that is not set either.
        num_cpus: cores that a local Ray may use; default all.
        num_gpus: GPUs that a local Ray may use; default all.
        object_store_bytes: shared memory of a local Ray. Chosen: only checkpoints and large images go through it.
    """

    address: str | None = None
    num_cpus: int | None = None
    num_gpus: int | None = None
    object_store_bytes: int = 256 << 20


class RayConnection:
    """This process as a Ray driver. A Ray that is connected already is used, and left as it is."""

    def __init__(self, settings: RaySettings) -> None:
        self._settings = settings
        self._thread: _Thread | None = None
        self._folder: LocalFolder | None = None

    async def open(self) -> None:
        """Connect.

        Raises:
            ClusterError: no cluster at that address, or a local Ray did not come up.
        """
        if ray.is_initialized():
            return
        for tries_left in reversed(range(_START_TRIES)):
            self._thread = _Thread()
            try:
                await self._thread.run(self._init)
            except BaseException as error:
                await self.close()  # what was started dies with the thread
                if not (tries_left and isinstance(error, _SlowStartError)):
                    raise
            else:
                _take_sigterm_back()
                return

    async def close(self) -> None:
        """Disconnect, which ends this driver's actors and a local Ray, and clean up its folder."""
        if self._thread is None:
            return
        thread, self._thread = self._thread, None
        try:
            await thread.run(ray.shutdown)
        finally:
            thread.end()
            if self._folder is not None:
                folder, self._folder = self._folder, None
                await asyncio.to_thread(folder.remove)

    def _init(self) -> None:
        logging.getLogger("ray").setLevel(logging.ERROR)
        try:
            address = cluster_address(self._settings.address)
        except RayAddressError as error:
            raise ClusterError(str(error)) from None
        common: dict[str, Any] = {"namespace": "spacte", "log_to_driver": False, "configure_logging": False}
        if address:
            _join(address, common)
        else:
            self._start(common)

    def _start(self, common: dict[str, Any]) -> None:
        self._folder = LocalFolder()
        try:
            with on_loopback():
                ray.init(
                    address="local",
                    num_cpus=self._settings.num_cpus,
                    num_gpus=self._settings.num_gpus,
                    object_store_memory=self._settings.object_store_bytes,
                    include_dashboard=False,
                    _temp_dir=str(self._folder.path),
                    **common,
                )
        except Exception as error:  # Ray raises no narrower one where its processes do not come up in 30 s
            raise _SlowStartError(
                f"Ray did not start on this machine ({_first_line(error)}): free memory, disk or "
                "processor time, or run without Ray (--in-process)."
            ) from error


def _join(address: str, common: dict[str, Any]) -> None:
    """Join the cluster at an address, once its head was found to be there and to take this process."""
    where = address
    try:
        if address == "auto":
            os.environ["RAY_ADDRESS"] = "auto"  # `ray.init` reads the variable itself, and may not understand it
            where = str(services.canonicalize_bootstrap_address_or_die(address))
        _check_answers(where)
        check_head(where, finds_token=address == "auto")
        with on_loopback() if _is_on_loopback(where) else nullcontext():
            ray.init(address=address, **common)
    except ClusterError:
        raise
    except (Exception, SystemExit) as error:  # Ray ends a process whose head does not answer it
        raise ClusterError(
            f"No Ray cluster can be joined at {where} ({_first_line(error)}): make this machine its node "
            "with `ray start`, or leave the address out to start a local Ray."
        ) from error


def _check_answers(address: str) -> None:
    """See that something listens there: where nothing does, `ray.init` tries for over five minutes."""
    host, _, port = address.rpartition(":")
    try:
        socket.create_connection((host.strip("[]"), int(port)), timeout=ANSWER_S).close()
    except OSError as error:
        raise ClusterError(
            f"Nothing answers at the Ray address {address} ({error}): check host:port, "
            "or leave the address out to start a local Ray."
        ) from error


def _is_on_loopback(address: str) -> bool:
    """Whether the Ray there is one of `_start`: Ray itself would look for it under the machine's other address."""
    host, _, port = address.rpartition(":")
    there = services.get_node_ip_address()
    if host.strip("[]") not in LOOPBACK_HOSTS or there in LOOPBACK_HOSTS:
        return False
    try:
        socket.create_connection((there, int(port)), timeout=ANSWER_S).close()
    except OSError:
        return True
    return False


def _take_sigterm_back() -> None:
    """Have Python's own handler of SIGTERM called again.

    Ray's C++ part puts its crash reporter before it, which ends the process three seconds after the signal, however far
    a server is with its requests. Only the main thread may set handlers.
    """
    handler = signal.getsignal(signal.SIGTERM)
    if handler is not None and threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGTERM, handler)


class _Thread:
    """A daemon thread that runs functions in order; an executor's thread would end before `atexit`."""

    def __init__(self) -> None:
        self._jobs: queue.SimpleQueue[tuple[Callable[[], Any], Future[Any]] | None] = queue.SimpleQueue()
        threading.Thread(target=self._work, name="spacte-ray", daemon=True).start()

    async def run(self, function: Callable[[], _T]) -> _T:
        """Run a function there and wait for it. If the waiter is cancelled, the function still runs to its end."""
        future: Future[_T] = Future()
        self._jobs.put((function, future))
        return await asyncio.wrap_future(future)

    def end(self) -> None:
        """End the thread when it has run what it was given."""
        self._jobs.put(None)

    def _work(self) -> None:
        while (job := self._jobs.get()) is not None:
            function, future = job
            if not future.set_running_or_notify_cancel():
                continue
            try:
                future.set_result(function())
            except BaseException as error:  # noqa: BLE001  it is raised again where it is awaited
                future.set_exception(error)


def _first_line(error: BaseException) -> str:
    return next(iter(str(error).strip().splitlines()), type(error).__name__).rstrip(".")
