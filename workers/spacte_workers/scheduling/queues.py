"""Requests in flight and whose turn it is: interactive before batch, fair otherwise, no one starved."""

import asyncio
import math
from collections import Counter, OrderedDict
from collections.abc import Callable, Iterator
from typing import Any, Generic, Literal, TypeVar

from spacte_workers.shards import Image, Phase
from spacte_workers.tracing import current

from .runs import Run

Priority = Literal["interactive", "batch"]

BATCH_TURN = 8
"""Every so many engine jobs, batch requests go first, so that interactive ones can never starve them."""

OutcomeT = TypeVar("OutcomeT")


class Request(Generic[OutcomeT]):
    """One image on its way to an answer.

    Attributes:
        model: what the samplers call the classifier.
        image: the pixels.
        run: the certification or prediction.
        answer: gets the outcome.
        job_seconds: how long an engine job with this request in it may take.
        on_start: called when the first noises are handed out.
        on_progress: called when votes have come in.
        alone: never share an engine job with others, because this request is suspected of breaking them.
        losses: how often each shard, by phase and start, went down with its sampler.
        trace: whose request it is, for the samplers' spans and log lines.
    """

    __slots__ = (
        "alone",
        "answer",
        "image",
        "job_seconds",
        "losses",
        "model",
        "next_progress",
        "on_progress",
        "on_start",
        "priority",
        "run",
        "trace",
    )

    def __init__(
        self, model: str, image: Image, run: Run[OutcomeT], priority: Priority, on_start: Callable[[], None] | None
    ) -> None:
        self.model = model
        self.image = image
        self.run = run
        self.trace = current()
        self.priority: Priority = priority
        self.answer: asyncio.Future[OutcomeT] = asyncio.get_running_loop().create_future()
        self.on_start = on_start
        self.job_seconds = math.inf
        self.on_progress: Callable[[], None] | None = None
        self.next_progress = 0.0
        self.alone = False
        self.losses: Counter[tuple[Phase, int]] = Counter()

    @property
    def over(self) -> bool:
        """Whether it is answered, failed or cancelled."""
        return self.answer.done()

    def settle(self) -> None:
        """Answer with the outcome, once there is one."""
        if self.run.done and not self.over:
            self.answer.set_result(self.run.outcome())

    def fail(self, error: Exception) -> None:
        """Answer with an error."""
        if not self.over:
            self.answer.set_exception(error)


class Rota:
    """Requests that may have noises to hand out, in turn; models take turns too. All in constant time."""

    def __init__(self) -> None:
        self._models: OrderedDict[str, OrderedDict[Request[Any], None]] = OrderedDict()

    def push(self, request: Request[Any]) -> None:
        """Put a request last in line, unless it is in line."""
        self._models.setdefault(request.model, OrderedDict()).setdefault(request)

    def pop(self, model: str | None) -> Request[Any] | None:
        """Take the first in line for a model, or for the model whose turn it is."""
        if model is None:
            if not self._models:
                return None
            model = next(iter(self._models))
            self._models.move_to_end(model)
        line = self._models.get(model)
        if line is None:
            return None
        request, _ = line.popitem(last=False)
        if not line:
            del self._models[model]
        return request

    def remove(self, request: Request[Any]) -> None:
        """Take a request out of line, if it is in line."""
        line = self._models.get(request.model)
        if line is not None and request in line:
            del line[request]
            if not line:
                del self._models[request.model]


class Queues:
    """Four rotas: interactive and batch, each for work sure to be needed and for work that may be wasted."""

    def __init__(self) -> None:
        self._sure: dict[Priority, Rota] = {"interactive": Rota(), "batch": Rota()}
        self._maybe: dict[Priority, Rota] = {"interactive": Rota(), "batch": Rota()}
        self._turn = 0

    def push(self, request: Request[Any]) -> None:
        """The request may have noises to hand out (again)."""
        self._sure[request.priority].push(request)
        self._maybe[request.priority].push(request)

    def remove(self, request: Request[Any]) -> None:
        """The request is over. While samplers are busy nothing is popped from the rotas of work that may be wasted."""
        self._sure[request.priority].remove(request)
        self._maybe[request.priority].remove(request)

    def in_order(self) -> Iterator[tuple[Rota, bool]]:
        """The rotas in the order in which the next engine job is filled, and whether each speculates."""
        self._turn += 1
        first: Priority = "batch" if self._turn % BATCH_TURN == 0 else "interactive"
        then: Priority = "interactive" if first == "batch" else "batch"
        for priority in (first, then):
            yield self._sure[priority], False
        for priority in (first, then):
            yield self._maybe[priority], True
