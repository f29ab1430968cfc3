"""The coordinator: hands the noises of all requests to all samplers, and takes their votes back. Plain asyncio.

Each sampler works on one call while a second one waits beside it, so it never waits for the coordinator. A call holds
as many noises as the sampler draws in `call_seconds`, of as many requests as that takes: large requests spread over the
samplers, small ones share a call. Results never depend on any of it.
"""

import asyncio
import math
from collections.abc import Callable
from typing import Any, TypeVar

from spacte_workers.certification.algorithm import Certification, CertifySpec, Outcome, Progress
from spacte_workers.certification.prediction import PredictionRun, PredictOutcome, PredictSpec
from spacte_workers.certification.sampling_run import SamplingRun
from spacte_workers.deadlines import Deadline
from spacte_workers.errors import DeadlineExceededError, NoWorkersError
from spacte_workers.shards import Image, Sampler, SamplerLostError, Votes

from .lost_shards import draw_again
from .observers import Observer, RetryReason, SampleCounters
from .queues import Priority, Queues, Request, ShortestFirst
from .slots import Call, Slot, Slots, Speed

DEADLINE_CALLS = 8
"""A request with a deadline gets calls short enough for so many, one after the other, to fit in its time. Chosen: at
most an eighth of the time is lost with the call that the deadline cuts off."""

LEAST_CALL_SECONDS = 0.005
"""No request is cut into shorter calls for the sake of idle samplers. Chosen: ten times what a Ray call costs."""

PROGRESS_SECONDS = 0.1
"""Progress of a request is told no more often than this. Chosen: a display that moves ten times a second is smooth."""

OutcomeT = TypeVar("OutcomeT")


class Coordinator:
    """Hands the shards of all requests to all samplers. Lives on one event loop.

    Args:
        call_seconds: how long a call to a sampler should take. Longer ones cost less (benchmarks/CLUSTER.md), shorter
            ones make others wait less.
        patience_s: how long a request waits for a sampler where there is none. Chosen: Ray restarts one in some ten.
        on_lost: told the id of each sampler that was lost with its shards, when the coordinator has dropped it.
        observer: told of what is drawn, wasted and retried.
    """

    def __init__(
        self,
        *,
        call_seconds: float = 0.1,
        patience_s: float = 30.0,
        on_lost: Callable[[str], None] | None = None,
        observer: Observer | None = None,
    ) -> None:
        self._observer: Observer = observer or SampleCounters()
        self._call_seconds = call_seconds
        self._patience_s = patience_s
        self._on_lost = on_lost
        self._slots = Slots()
        self._requests: set[Request[Any]] = set()
        self._queues = Queues()
        self._running: set[asyncio.Task[None]] = set()
        self._filling = False
        self._out_of_patience: asyncio.TimerHandle | None = None
        self._closed = False

    def add_sampler(self, sampler: Sampler, rate: float, batch: int = 1) -> None:
        """Hand shards to a sampler from now on. One with the same id is replaced.

        `rate` is a first guess of its speed in noises a second, measured for each model from then on; `batch` are the
        rows that it always computes together, so a call of fewer costs the same. `expect` knows models better.
        """
        self.remove_sampler(sampler.id)
        self._slots.add(Slot(sampler, Speed(rate, batch)))
        if self._out_of_patience:
            self._out_of_patience.cancel()
            self._out_of_patience = None
        self._fill_soon()

    def remove_sampler(self, sampler_id: str) -> None:
        """Hand a sampler no more, and have others draw what it has in flight. An unknown id is ignored."""
        slot = self._slots.by_id.get(sampler_id)
        if slot is not None:
            self._drop(slot, "removed")

    def expect(self, model: str, rate: float, batch: int) -> None:
        """The first guess of each sampler's speed with one model, as for `add_sampler`."""
        self._slots.expect(model, Speed(rate, batch))

    def forget(self, model: str) -> None:
        """Nothing is asked of this model any more."""
        self._slots.forget(model)

    def rate(self, model: str) -> float:
        """Noises a second of all samplers together, if they draw for this model alone; 0 where there is none."""
        return self._slots.rate(model)

    async def certify(
        self,
        model: str,
        image: Image,
        spec: CertifySpec,
        *,
        deadline: Deadline | None = None,
        on_progress: Callable[[Progress], None] | None = None,
        on_start: Callable[[], None] | None = None,
        priority: Priority = "interactive",
    ) -> Outcome:
        """Draw until the certificate is settled. Cancelling the call stops the drawing.

        Args:
            model: what the samplers call the classifier.
            image: the pixels.
            spec: what is asked; `spec.deadline` where there is a `deadline`, which settles for what is proven then.
            on_progress: told how far it is, at most ten times a second.
            on_start: told when the first noises are handed out.
            priority: `interactive` requests go first.

        Raises:
            DeadlineExceededError: the deadline passed before the first look.
            NoWorkersError: there is no sampler, and none came in time.
            BrokenRequestError: samplers die of this request.
        """
        run = Certification(spec)
        request = Request(model, image, run, priority, on_start)
        if on_progress:
            request.on_progress = lambda: on_progress(run.progress())
        left = deadline.seconds_left if deadline else None
        if left is None:
            return await self._answer(request)
        request.call_seconds = left / DEADLINE_CALLS
        timer = asyncio.get_running_loop().call_later(left, self._expire, request, run)
        try:
            return await self._answer(request)
        finally:
            timer.cancel()

    async def predict(
        self, model: str, image: Image, spec: PredictSpec, *, on_start: Callable[[], None] | None = None
    ) -> PredictOutcome:
        """Draw until the prediction is settled. Arguments and errors as for `certify`."""
        return await self._answer(Request(model, image, PredictionRun(spec), "interactive", on_start))

    async def draw(
        self,
        model: str,
        image: Image,
        run: SamplingRun[OutcomeT],
        *,
        on_start: Callable[[], None] | None = None,
        priority: Priority = "interactive",
    ) -> OutcomeT:
        """Draw until any other run is settled. Arguments and errors as for `certify`."""
        return await self._answer(Request(model, image, run, priority, on_start))

    async def close(self) -> None:
        """End every request with `NoWorkersError`, and forget the samplers."""
        self._closed = True
        for request in list(self._requests):
            request.fail(_shutting_down())
        for slot in list(self._slots.by_id.values()):
            self._drop(slot, "removed")
        for task in list(self._running):
            task.cancel()
        await asyncio.gather(*self._running, return_exceptions=True)

    async def _answer(self, request: Request[OutcomeT]) -> OutcomeT:
        if self._closed:
            raise _shutting_down()
        self._requests.add(request)
        self._queues.push(request)
        self._fill_soon()
        self._watch_samplers()
        try:
            return await request.answer
        finally:
            self._requests.discard(request)
            self._queues.remove(request)
            self._count_unanswered(request)
            self._fill_soon()  # a request without time left holds back those behind it

    def _expire(self, request: Request[Outcome], run: Certification) -> None:
        try:
            run.expire()
        except DeadlineExceededError as error:
            request.fail(error)
        else:
            self._settle(request)

    def _settle(self, request: Request[Any]) -> None:
        if request.run.done and not request.over:
            self._observer.wasted(request.model, request.run.surplus, "past_stop")
            request.answer.set_result(request.run.outcome())

    def _count_unanswered(self, request: Request[Any]) -> None:
        """Where a request ends without an answer, all that was drawn for it is wasted."""
        if request.wasted is not None:
            self._observer.wasted(request.model, request.run.drawn, request.wasted)

    def _watch_samplers(self) -> None:
        """Where there is no sampler, wait for one only so long."""
        if not self._slots.by_id and self._requests and self._out_of_patience is None and not self._closed:
            loop = asyncio.get_running_loop()
            self._out_of_patience = loop.call_later(self._patience_s, self._give_up)

    def _give_up(self) -> None:
        self._out_of_patience = None
        for request in list(self._requests):
            request.fail(NoWorkersError(f"No sampler came up within {self._patience_s:g} s: try again later."))

    def _fill_soon(self) -> None:
        """Fill the free slots once all that is happening now has happened, so that requests share calls."""
        if not self._filling and not self._closed:
            self._filling = True
            asyncio.get_running_loop().call_soon(self._fill)

    def _fill(self) -> None:
        self._filling = False
        while (slot := self._slots.next_free()) is not None and (call := self._next_call(slot)) is not None:
            self._slots.start(slot, call)
            task = asyncio.get_running_loop().create_task(self._run(slot, call))
            self._running.add(task)
            task.add_done_callback(self._running.discard)

    def _next_call(self, slot: Slot) -> Call | None:
        """Fill a call for a sampler with shards of one model: those that are needed first, then speculative ones."""
        call, model, seconds = Call(), None, self._call_seconds
        room = 1  # of the first request's model, once that is known
        popped: list[tuple[ShortestFirst, Request[Any]]] = []
        for queue, speculate in self._queues.in_order():
            while call.size < room and (request := queue.pop(model)) is not None:
                if request.over:
                    continue
                popped.append((queue, request))
                if model is None or request.call_seconds < seconds:
                    seconds = min(seconds, request.call_seconds)
                    room = self._slots.speed(slot, request.model).room(seconds)
                share = min(room - call.size, self._share(slot, request, speculate))
                if share <= 0 or (request.isolated and call.parts):
                    room = 0  # this request begins the next call
                    break
                shards = request.run.next_shards(share, speculate=speculate)
                if not shards:
                    popped.pop()  # it is queued again when its votes come
                    continue
                call.add(request, shards)
                model = request.model
                if request.on_start:
                    request.on_start()
                    request.on_start = None
                if request.isolated:
                    room = 0
        for queue, request in popped:
            queue.push(request)
        return call if call.parts else None

    def _share(self, slot: Slot, request: Request[Any], speculate: bool) -> int:
        """The most noises of one request in one call: idle samplers share it between them."""
        idle, speed = self._slots.idle, self._slots.speed(slot, request.model)
        if idle < 2 or len(self._requests) > idle:
            return speed.room(self._call_seconds)
        if speculate and request.run.available(speculate=False):
            return 0  # the others first get their share of what is needed
        even = math.ceil(request.run.available(speculate=speculate) / idle)
        return max(speed.room(LEAST_CALL_SECONDS), even)

    async def _run(self, slot: Slot, call: Call) -> None:
        tasks = call.tasks
        try:
            votes = await slot.sampler.sample_many(call.model, tasks)
            if len(votes) != len(tasks):
                raise RuntimeError(f"sampler {slot.sampler.id} returned {len(votes)} votes of {len(tasks)}")
        except (SamplerLostError, asyncio.CancelledError):
            if self._closed:
                return
            if not call.dropped:
                self._drop(slot, "lost")
        except Exception as error:  # noqa: BLE001  a sampler's bug or a full memory must not stop the others
            if not call.dropped:
                self._slots.finish(slot, call)
                self._fail(call, error)
        else:
            if not call.dropped:
                self._slots.finish(slot, call)
            self._receive(slot, call, votes)
        self._fill_soon()

    def _receive(self, slot: Slot, call: Call, votes: list[Votes]) -> None:
        seconds = sum(vote.seconds for vote in votes)
        self._slots.speed(slot, call.model).learn(call.size, seconds, self._call_seconds)
        self._observer.drawn(call.model, call.size, seconds)
        coming = iter(votes)
        for request, shards in call.parts:
            pairs = list(zip(shards, coming, strict=False))
            if request.over:
                self._observer.wasted(call.model, sum(shard.size for shard in shards), request.wasted or "past_stop")
                continue
            awaited = request.run.drawn + sum(shard.size for shard in shards)
            try:
                for shard, vote in pairs:
                    if not request.run.give(shard, vote):
                        awaited -= shard.size
                        self._observer.wasted(call.model, shard.size, "retried")
                self._settle(request)
                self._tell(request)
            except Exception as error:  # noqa: BLE001  votes of another shape, or the caller's own callback
                request.fail(error)
                self._observer.wasted(call.model, awaited - request.run.drawn, "failed")
            if not request.over:
                self._queues.push(request)

    def _tell(self, request: Request[Any]) -> None:
        """Tell the caller how far it is, if that is wanted and not too often."""
        now = asyncio.get_running_loop().time()
        if request.on_progress and not request.over and now >= request.next_progress:
            request.next_progress = now + PROGRESS_SECONDS
            request.on_progress()

    def _fail(self, call: Call, error: Exception) -> None:
        """A call failed: where several requests shared it, each is tried again by itself."""
        requests = call.requests
        if len(requests) == 1:
            requests[0].fail(error)
            return
        for request in requests:
            request.isolated = True
        draw_again(call, "error", self._queues, self._observer)

    def _drop(self, slot: Slot, reason: RetryReason) -> None:
        """Forget a sampler and have its shards drawn elsewhere."""
        self._slots.remove(slot)
        for call in slot.calls:
            call.dropped = True
            draw_again(call, reason, self._queues, self._observer)
        slot.calls.clear()
        if reason == "lost" and self._on_lost:
            self._on_lost(slot.sampler.id)
        self._fill_soon()
        self._watch_samplers()


def _shutting_down() -> NoWorkersError:
    return NoWorkersError("The service is shutting down: send the request to another one.")
