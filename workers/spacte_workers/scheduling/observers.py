"""What a coordinator draws, wastes and retries: the protocol for who wants to know, and plain totals."""

from collections import Counter
from typing import Literal, Protocol

WasteReason = Literal["past_stop", "cancelled", "failed", "retried"]
RetryReason = Literal["lost", "removed", "error"]


class Observer(Protocol):
    """Is told of everything worth counting, as it happens, on the coordinator's event loop."""

    def drawn(self, model: str, noises: int, seconds: float) -> None:
        """A sampler finished a call: its noises, and the seconds that it took."""
        ...

    def wasted(self, model: str, noises: int, reason: WasteReason) -> None:
        """Noises that were drawn and that no answer counts."""
        ...

    def retried(self, shards: int, reason: RetryReason) -> None:
        """Shards that have to be drawn again."""
        ...


class SampleCounters:
    """Totals since the start: noises drawn by model and wasted by model and reason, shards, calls and their seconds."""

    def __init__(self) -> None:
        self.samples_drawn: Counter[str] = Counter()
        self.samples_wasted: Counter[tuple[str, WasteReason]] = Counter()
        self.shards_retried: Counter[RetryReason] = Counter()
        self.calls: Counter[str] = Counter()
        self.call_seconds: dict[str, float] = {}

    def drawn(self, model: str, noises: int, seconds: float) -> None:
        """Count a call."""
        self.samples_drawn[model] += noises
        self.calls[model] += 1
        self.call_seconds[model] = self.call_seconds.get(model, 0.0) + seconds

    def wasted(self, model: str, noises: int, reason: WasteReason) -> None:
        """Count noises that no answer counts."""
        if noises:
            self.samples_wasted[model, reason] += noises

    def retried(self, shards: int, reason: RetryReason) -> None:
        """Count shards to be drawn again."""
        self.shards_retried[reason] += shards
