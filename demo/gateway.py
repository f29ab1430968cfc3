"""Starts `spacte serve` on a folder of models in a process of its own, and ends it again."""

import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from spacte_client import Client

DATA = Path(__file__).parent / "data"

ANSWER_S = 300
"""Chosen: 10,000 noises of the largest demo model take seconds on two CPUs; a slow machine gets its time."""

STOP_S = 40
"""Chosen: the gateway's own 25 seconds for requests in flight, and some for Ray to end."""


def spacte(*arguments: str) -> list[str]:
    """The command line of `spacte` in the environment that runs this file."""
    return [str(Path(sys.executable).with_name("spacte")), *arguments]


@contextmanager
def serving(models: Path, data: Path = DATA) -> Iterator[Client]:
    """A client of a gateway that serves `models`, and keeps jobs in `data`, for as long as the block runs."""
    command = spacte("serve", "--models", str(models), "--data-dir", str(data), "--log-level", "warning")
    # A group of its own, so that nothing of Ray outlives it.
    process = subprocess.Popen([*command, "--port", "0"], stdout=subprocess.PIPE, text=True, start_new_session=True)
    try:
        with Client(address_of(process), timeout=ANSWER_S) as client:
            yield client
    finally:
        stop(process)


def address_of(process: subprocess.Popen[str]) -> str:
    """The address that the gateway prints once it can certify."""
    assert process.stdout is not None
    for line in process.stdout:
        print(line, end="", flush=True)
        if found := re.search(r"http://\S+", line):
            return found[0]
    raise SystemExit(f"The gateway ended with exit code {process.wait()}; its message is above.")


def stop(process: subprocess.Popen[str]) -> None:
    """Ask the gateway to finish, wait for it, and leave nothing of its process group behind."""
    process.terminate()
    try:
        process.wait(STOP_S)
    except subprocess.TimeoutExpired:
        print("The gateway did not stop by itself; ending it.", file=sys.stderr)
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()
