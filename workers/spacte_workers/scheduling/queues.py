"""Requests in flight and whose turn it is: interactive before batch, the shortest first, no one starved.

Of one model's requests the one with the fewest noises left goes first: it ends soonest, and requests of one size end
one after the other instead of all at the end. So what is cut off by a deadline or by its caller has cost little.
"""

import asyncio
import math
from collections import Counter, OrderedDict
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from itertools import count
from typing import Any, Generic, Literal, TypeVar

from spacte_workers.certification.sampling_run import SamplingRun
from spacte_workers.shards import Image, Phase
from spacte_workers.tracing import Trace, current

from .observers import WasteReason

Priority = Literal["interactive", "batch"]

BATCH_TURN = 8
"""In every eighth call batch requests go first, so interactive ones never starve them. Chosen: an eighth of the
samplers is little to an interactive caller, and enough that a job goes on."""

OLDEST_TURN = 8
"""Every eighth time the request that came first goes first, so that short ones never starve a long one. Chosen: as
`BATCH_TURN`."""

_numbers = count()

OutcomeT = TypeVar("OutcomeT")


@dataclass(eq=False, slots=True)
class Request(Generic[OutcomeT]):
    """One image on its way to an answer.

    Attributes:
        model: what the samplers call the classifier.
        on_start: called when the first noises are handed out.
        on_progress: called when votes have come in.
        next_progress: when it may be called again, by the event loop's clock.
        call_seconds: how long a call with this request in it may take.
        isolated: share no call with other requests, because this one is suspected of breaking them.
        losses: how often the sampler of each shard, by phase, start and whether it is drawn again, was lost.
        number: in the order in which requests came.
        trace: whose request it is, for the samplers' spans and log lines.
    """

    model: str
    image: Image
    run: SamplingRun[OutcomeT]
    priority: Priority
    on_start: Callable[[], None] | None = None
    on_progress: Callable[[], None] | None = None
    next_progress: float = 0.0
    call_seconds: float = math.inf
    isolated: bool = False
    losses: Counter[tuple[Phase, int, bool]] = field(default_factory=Counter)
    number: int = field(default_factory=lambda: next(_numbers))
    trace: Trace | None = field(default_factory=current)
    answer: asyncio.Future[OutcomeT] = field(default_factory=lambda: asyncio.get_running_loop().create_future())

    @property
    def over(self) -> bool:
        """Whether it is answered, failed or cancelled."""
        return self.answer.done()

    @property
    def wasted(self) -> WasteReason | None:
        """Why all that was drawn for it is wasted; None where it is not over, or has an answer."""
        if self.answer.cancelled():
            return "cancelled"
        return "failed" if self.over and self.answer.exception() else None

    def fail(self, error: Exception) -> None:
        """Answer with an error."""
        if not self.over:
            self.answer.set_exception(error)


class ShortestFirst:
    """Requests that may have noises to hand out, the shortest first; models take turns."""

    def __init__(self) -> None:
        self._models: OrderedDict[str, dict[Request[Any], tuple[int, int]]] = OrderedDict()
        self._turn = 0

    def push(self, request: Request[Any]) -> None:
        """Put a request in, or in its place by the noises that are left now."""
        self._models.setdefault(request.model, {})[request] = request.run.left, request.number

    def pop(self, model: str | None) -> Request[Any] | None:
        """Take the next request of a model, or of the model whose turn it is."""
        if model is None:
            if not self._models:
                return None
            model = next(iter(self._models))
            self._models.move_to_end(model)
        if model not in self._models:
            return None
        requests = self._models[model]
        self._turn += 1
        oldest = self._turn % OLDEST_TURN == 0
        request = min(requests, key=lambda each: each.number) if oldest else min(requests, key=requests.__getitem__)
        self.remove(request)
        return request

    def remove(self, request: Request[Any]) -> None:
        """Take a request out, if it is in the queue."""
        requests = self._models.get(request.model)
        if requests is not None and request in requests:
            del requests[request]
            if not requests:
                del self._models[request.model]


class Queues:
    """Four queues: interactive and batch, each for noises that are needed and for noises that may be wasted."""

    def __init__(self) -> None:
        self._needed: dict[Priority, ShortestFirst] = {"interactive": ShortestFirst(), "batch": ShortestFirst()}
        self._speculative: dict[Priority, ShortestFirst] = {"interactive": ShortestFirst(), "batch": ShortestFirst()}
        self._turn = 0

    def push(self, request: Request[Any]) -> None:
        """The request may have noises to hand out (again)."""
        self._needed[request.priority].push(request)
        self._speculative[request.priority].push(request)

    def remove(self, request: Request[Any]) -> None:
        """The request is over. While samplers are busy, nothing else takes it from the speculative queues."""
        self._needed[request.priority].remove(request)
        self._speculative[request.priority].remove(request)

    def in_order(self) -> Iterator[tuple[ShortestFirst, bool]]:
        """The queues in the order in which the next call is filled, and whether each is speculative."""
        self._turn += 1
        order: tuple[Priority, Priority] = ("interactive", "batch")
        if self._turn % BATCH_TURN == 0:
            order = ("batch", "interactive")
        for queues, speculative in ((self._needed, False), (self._speculative, True)):
            for priority in order:
                yield queues[priority], speculative
