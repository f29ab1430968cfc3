"""Starts `spacte serve` on a folder of models in a process of its own, and ends it again."""

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from spacte_client import APIError, Client

DATA = Path(__file__).parent / "data"
START_SECONDS = 120
STOP_SECONDS = 40


def spacte(*arguments: str) -> list[str]:
    """The command line of `spacte` in the environment that runs this file."""
    return [str(Path(sys.executable).with_name("spacte")), *arguments]


def free_port() -> int:
    """A loopback port that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def wait_until_ready(process: subprocess.Popen[bytes], client: Client) -> None:
    """Return once the gateway can certify; raise if it ended or took too long."""
    end = time.monotonic() + START_SECONDS
    while time.monotonic() < end:
        if process.poll() is not None:
            raise SystemExit(f"The gateway ended with exit code {process.returncode}; its message is above.")
        try:
            if client.health().status == "ok":
                return
        except APIError:
            pass
        time.sleep(0.2)
    raise SystemExit(f"The gateway was not ready within {START_SECONDS} s; its log is above.")


@contextmanager
def serving(models: Path, data: Path = DATA) -> Iterator[Client]:
    """A client of a gateway that serves `models`, and keeps jobs in `data`, for as long as the block runs."""
    port = free_port()
    command = spacte("serve", "--models", str(models), "--data-dir", str(data), "--log-level", "warning")
    process = subprocess.Popen([*command, "--host", "127.0.0.1", "--port", str(port)], start_new_session=True)
    try:
        with Client(f"http://127.0.0.1:{port}", timeout=300, max_retries=0) as probe:
            wait_until_ready(process, probe)
        with Client(f"http://127.0.0.1:{port}", timeout=300) as client:
            yield client
    finally:
        stop(process)


def stop(process: subprocess.Popen[bytes]) -> None:
    """Ask the gateway to finish, wait for it, and leave nothing of its process group behind."""
    if process.poll() is None:
        process.send_signal(signal.SIGTERM)
    try:
        process.wait(STOP_SECONDS)
    except subprocess.TimeoutExpired:
        print("The gateway did not stop by itself; ending it.", file=sys.stderr)
    try:
        os.killpg(process.pid, signal.SIGKILL)
    except ProcessLookupError:
        return
    process.wait()
