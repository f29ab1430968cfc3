"""Drivers as child processes of the gateway, for `--in-process`: stopped with it, and resumed with it."""

import asyncio
import signal
import subprocess
from collections.abc import Sequence
from pathlib import Path

from .runner import DriverStatus, Stage

KILL_AFTER_S = 10.0  # from SIGTERM to SIGKILL, as Docker does by default


class ProcessRunner:
    """Child processes by submission id; what they print goes to the folder `logs`."""

    def __init__(self, logs: Path) -> None:
        self._logs = logs
        self._children: dict[str, subprocess.Popen[bytes]] = {}
        self._stopped: set[str] = set()

    async def submit(self, submission_id: str, command: Sequence[str]) -> None:
        """Start a driver, which stops by itself when this process is gone."""
        if submission_id in self._children:
            return
        self._logs.mkdir(parents=True, exist_ok=True)
        with (self._logs / f"{submission_id}.log").open("ab") as log:
            self._children[submission_id] = subprocess.Popen(  # noqa: ASYNC220, S603  forks; it waits for nothing
                [*command, "--with-parent"], stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True
            )

    async def status(self, submission_id: str) -> DriverStatus | None:
        """What has become of a child of this process."""
        child = self._children.get(submission_id)
        if child is None:
            return None
        code = child.poll()
        if code is None:
            return DriverStatus("running")
        stage: Stage = "stopped" if submission_id in self._stopped else "failed" if code else "succeeded"
        message = f"exit code {code}" if code >= 0 else f"killed by {signal.Signals(-code).name}"
        return DriverStatus(stage, message)

    async def stop(self, submission_id: str) -> None:
        """End a child."""
        child = self._children.get(submission_id)
        if child is None or child.poll() is not None:
            return
        self._stopped.add(submission_id)
        child.terminate()
        try:
            await asyncio.to_thread(child.wait, KILL_AFTER_S)
        except subprocess.TimeoutExpired:
            child.kill()
            await asyncio.to_thread(child.wait)

    async def close(self) -> None:
        """End all children; their jobs are interrupted."""
        await asyncio.gather(*map(self.stop, self._children))
