"""What runs the drivers of jobs, as the reconciler sees it: Ray Jobs, or processes of this machine."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, Protocol

Stage = Literal["waiting", "running", "succeeded", "failed", "stopped"]

ENDED = ("succeeded", "failed", "stopped")


class UnreachableError(Exception):
    """The runner does not answer now, so nothing is known of its drivers."""


@dataclass(frozen=True, slots=True)
class DriverStatus:
    """What a runner says of a driver's process."""

    stage: Stage
    message: str = ""  # why it ended, in the runner's words

    @property
    def ended(self) -> bool:
        """Whether the process is over."""
        return self.stage in ENDED


class Runner(Protocol):
    """Starts drivers as processes of their own, by an id of ours."""

    async def submit(self, submission_id: str, command: Sequence[str]) -> None:
        """Start a driver; one that was submitted under this id before is left as it is.

        Raises UnreachableError: try again later.
        """

    async def status(self, submission_id: str) -> DriverStatus | None:
        """What has become of a driver; None where the runner has never heard of it.

        Raises UnreachableError: nothing can be said now.
        """
        ...

    async def stop(self, submission_id: str) -> None:
        """End a driver: SIGTERM, then SIGKILL. One that is over or unknown is left alone.

        Raises UnreachableError: try again later.
        """

    async def close(self) -> None:
        """Let go; drivers on a cluster run on."""
