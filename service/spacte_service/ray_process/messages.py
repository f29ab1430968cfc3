"""What gateway and Ray process say to each other."""

import logging
from dataclasses import dataclass
from typing import Any, Literal

from spacte_workers.load_steps import LoadStep
from spacte_workers.serving.pools import PoolStatus

CallName = Literal["load", "unload", "draw", "submit", "status", "stop"]


@dataclass(frozen=True, slots=True)
class RayOptions:
    """From the gateway, first of all: which Ray, and what runs where on it.

    Attributes:
        address: of a cluster to join; None takes `RAY_ADDRESS`, and starts a local Ray where that is not set either.
        min_samplers: so many are asked for even where there is no room for them.
        max_samplers: no more than this; default as many as the cluster has room for.
        threads: cores of a CPU sampler; default an eighth of a node's, at least one.
        drivers_here: drivers of jobs run on the gateway's own node, not on the head's.
    """

    address: str | None = None
    min_samplers: int = 1
    max_samplers: int | None = None
    threads: int | None = None
    drivers_here: bool = False


@dataclass(frozen=True, slots=True)
class Call:
    """From the gateway: do this, and answer under the same number."""

    number: int
    name: CallName
    arguments: tuple[Any, ...]


@dataclass(frozen=True, slots=True)
class Answer:
    """To a call: what it returned, or the exception that it raised."""

    number: int
    value: Any
    failed: bool


@dataclass(frozen=True, slots=True)
class Started:
    """Ray is connected; or, with a sentence, could not be."""

    error: str | None = None


@dataclass(frozen=True, slots=True)
class SamplerUp:
    """A sampler can draw."""

    sampler_id: str
    rate: float
    batch: int


@dataclass(frozen=True, slots=True)
class SamplerGone:
    """A sampler is handed no more."""

    sampler_id: str


@dataclass(frozen=True, slots=True)
class Loading:
    """How far the load of a model is."""

    key: str
    step: LoadStep


@dataclass(frozen=True, slots=True)
class Status:
    """The state of the samplers, twice a second."""

    pool: PoolStatus


@dataclass(frozen=True, slots=True)
class LogLine:
    """A line for the gateway's log."""

    logger: str
    level: int
    text: str


class Forwarding(logging.Handler):
    """Sends log lines in place of writing them; `send` takes the message."""

    def __init__(self, send: Any) -> None:
        super().__init__()
        self._send = send

    def emit(self, record: logging.LogRecord) -> None:
        """Send one line."""
        self._send(LogLine(record.name, record.levelno, self.format(record)))
