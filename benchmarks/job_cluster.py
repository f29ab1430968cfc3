"""A Ray cluster of several nodes on this machine with a gateway joined to it, for measurements of jobs."""

import contextlib
import os
import re
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from spacte_client import APIError, Client

os.environ.setdefault("RAY_AUTH_MODE", "disabled")  # read when ray is imported
os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
os.environ.setdefault("OMP_NUM_THREADS", "1")

START_S, START_TRIES = 400.0, 10  # chosen: on a busy machine a node takes minutes, and several tries
OBJECT_STORE_BYTES = 100 << 20  # chosen: little more than the least that Ray takes, some 75 MB


class Node:
    """One Ray node, as `ray start --block` makes it, in a process group of its own.

    Args:
        arguments: of `ray start`.
    """

    def __init__(self, arguments: Sequence[str]) -> None:
        ray = str(Path(sys.executable).with_name("ray"))
        command = [ray, "start", *arguments, "--num-gpus=0", f"--object-store-memory={OBJECT_STORE_BYTES}", "--block"]
        self.process = subprocess.Popen(
            command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True
        )

    def kill(self) -> None:
        """Kill every process of the node at once."""
        for pid in [self.process.pid, *descendants(self.process.pid)]:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        self.process.wait(30)


class Nodes:
    """A head without work for it, and further nodes on this machine.

    Args:
        cores: of each further node.
    """

    def __init__(self, cores: Sequence[int]) -> None:
        port = free_port()
        self.address = f"127.0.0.1:{port}"
        dashboard = free_port()  # which has the job API
        options = ["--head", f"--port={port}", "--num-cpus=0"]
        self._head = Node([*options, "--dashboard-host=127.0.0.1", f"--dashboard-port={dashboard}"])
        wait_until(lambda: _answers(port) and _answers(dashboard), START_S, 0.5)
        import ray

        self._ray: Any = ray
        ray.init(address=self.address, log_to_driver=False, namespace="spacte")
        self.workers: list[Node] = []
        for count in cores:
            self.add(count)

    def add(self, cores: int) -> None:
        """One more node; returns once it is in the cluster."""
        before = self._alive()  # a lost node is listed as alive for a while
        for _ in range(START_TRIES):  # `ray start` gives up after 30 s, which a busy machine may need
            node = Node([f"--address={self.address}", f"--num-cpus={cores}"])
            self.workers.append(node)
            while node.process.poll() is None:
                if self._alive() - before:
                    return
                time.sleep(0.2)
            self.workers.remove(node)
        raise SystemExit("A Ray node did not start; the machine may be too busy.")

    def _alive(self) -> set[str]:
        return {node["NodeID"] for node in self._ray.nodes() if node["Alive"]}

    def kill(self, node: Node) -> None:
        """End a node."""
        self.workers.remove(node)
        node.kill()

    def shutdown(self) -> None:
        """End all of them."""
        self._ray.shutdown()
        for node in [*self.workers, self._head]:
            node.kill()


def _answers(port: int) -> bool:
    with contextlib.suppress(OSError):
        socket.create_connection(("127.0.0.1", port), timeout=1).close()
        return True
    return False


def descendants(root: int) -> set[int]:
    """The processes that a process has started, and those that they have started."""
    parents: dict[int, int] = {}
    for folder in Path("/proc").iterdir():
        if folder.name.isdigit():
            with contextlib.suppress(OSError):
                # After the name, which is in parentheses: state, parent.
                parents[int(folder.name)] = int((folder / "stat").read_text().rpartition(")")[2].split()[1])
    found = {root}
    while more := {pid for pid, parent in parents.items() if parent in found} - found:
        found |= more
    return found - {root}


def free_port() -> int:
    """A loopback port that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


class GatewayProcess:
    """`spacte serve` in a process of its own, which can be killed and started again at the same port.

    Args:
        arguments: of `spacte serve`, besides the port and the data folder.
        data: the data folder.
        environment: of the process, by default this one's.
    """

    def __init__(self, arguments: Sequence[str], data: Path, environment: dict[str, str] | None = None) -> None:
        spacte = str(Path(sys.executable).with_name("spacte"))
        self._command = [spacte, "serve", *arguments, "--data-dir", str(data), "--log-level", "warning"]
        self._port = 0
        self._environment = environment
        self.process: subprocess.Popen[str] | None = None
        self.url = ""

    def start(self) -> None:
        """Start, and return once it is ready."""
        self.process = subprocess.Popen(
            [*self._command, "--port", str(self._port)],
            stdout=subprocess.PIPE,
            text=True,
            start_new_session=True,
            env=self._environment,
        )
        assert self.process.stdout is not None
        for line in self.process.stdout:
            if found := re.search(r"http://127\.0\.0\.1:(\d+)", line):
                self.url, self._port = found[0], int(found[1])
                break
        else:
            raise SystemExit(f"The gateway ended with exit code {self.process.wait()} before it was ready.")
        threading.Thread(target=self.process.stdout.read, daemon=True).start()  # so that the pipe never fills
        with Client(self.url, max_retries=0) as client:
            wait_until(lambda: client.health().status == "ok", START_S)

    def kill(self) -> None:
        """SIGKILL."""
        assert self.process is not None
        self.process.kill()
        self.process.wait()

    def stop(self) -> None:
        """SIGTERM, and wait."""
        if self.process is not None and self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
            self.process.wait(60)


def wait_until(true: Any, seconds: float, every_s: float = 0.1) -> float:
    """Wait until something holds, asking every so often; return how long that took, in seconds."""
    started = time.monotonic()
    while time.monotonic() - started < seconds:
        with contextlib.suppress(APIError):
            if true():
                return time.monotonic() - started
        time.sleep(every_s)
    raise SystemExit(f"Waited {seconds:.0f} s for nothing.")


@contextlib.contextmanager
def data_folder() -> Iterator[Path]:
    """A folder for a gateway's data, gone afterwards."""
    with tempfile.TemporaryDirectory(prefix="spacte-measure-", ignore_cleanup_errors=True) as folder:
        yield Path(folder)
