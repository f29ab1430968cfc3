"""The shard hand-out: the noises of all requests to all samplers, and their votes back. Plain asyncio.

Each sampler works on one engine job while a second one waits beside it, so that it never waits for the
coordinator. A job holds as many noises as the sampler draws in `job_seconds`, of as many requests as that
takes: large requests spread over the samplers, small ones share a job. Results never depend on any of it.
"""

import asyncio
import math
from collections.abc import Callable
from typing import Any, TypeVar

from spacte_workers.certification.algorithm import Certification, CertifySpec, DeadlineError, Outcome, Progress
from spacte_workers.certification.prediction import PredictionRun, PredictOutcome, PredictSpec
from spacte_workers.errors import NoWorkersError, RuntimeFault
from spacte_workers.shards import Image, Sampler, SamplerLostError, SampleTask, Shard, Votes

from .counters import Counters, Observer, RetryReason
from .queues import Priority, Queues, Request, Rota
from .slots import EngineJob, Slot, Slots

MAX_LOSSES = 4
"""A shard that went down with so many samplers is taken for the cause."""

DEADLINE_JOBS = 8
"""A request with a deadline gets jobs short enough for so many, one after the other, to fit in its time."""

LEAST_JOB_SECONDS = 0.005
"""A request is not cut into shorter jobs than this for the sake of idle samplers."""

PROGRESS_SECONDS = 0.1
"""A request's progress is told no more often than this."""

OutcomeT = TypeVar("OutcomeT")


class BrokenRequestError(RuntimeFault):
    """Drawing the noises of this request brought down one sampler after another."""


class Coordinator:
    """Hands the shards of all requests to all samplers. Lives on one event loop.

    Args:
        job_seconds: how long an engine job should take. Longer jobs cost less overhead, shorter ones make
            others wait less.
        patience_s: how long a request waits for a sampler where there is none.
        on_lost: told the id of each sampler that went away with its work, when the coordinator has dropped
            it.
        observer: told of what is drawn, wasted and retried.
    """

    def __init__(
        self,
        *,
        job_seconds: float = 0.1,
        patience_s: float = 30.0,
        on_lost: Callable[[str], None] | None = None,
        observer: Observer | None = None,
    ) -> None:
        self.observer: Observer = observer or Counters()
        self._job_seconds = job_seconds
        self._patience_s = patience_s
        self._on_lost = on_lost
        self._slots = Slots()
        self._requests: set[Request[Any]] = set()
        self._queues = Queues()
        self._calls: set[asyncio.Task[None]] = set()
        self._filling = False
        self._out_of_patience: asyncio.TimerHandle | None = None
        self._closed = False

    @property
    def samplers(self) -> int:
        """How many samplers there are now."""
        return len(self._slots)

    def in_flight(self, priority: Priority) -> int:
        """How many requests of a class are being worked on or waiting."""
        return sum(request.priority == priority for request in self._requests)

    def add_sampler(self, sampler: Sampler, rate: float, batch: int = 1) -> None:
        """Hand shards to a sampler from now on. One with the same id is replaced.

        Args:
            sampler: where to draw.
            rate: a first guess of its speed in noises a second; it is measured from then on.
            batch: rows that it always computes together; a job of fewer costs the same.
        """
        self.remove_sampler(sampler.id)
        self._slots.add(Slot(sampler, rate, batch))
        if self._out_of_patience:
            self._out_of_patience.cancel()
            self._out_of_patience = None
        self._fill_soon()

    def remove_sampler(self, sampler_id: str) -> None:
        """Hand a sampler no more, and have others draw what it has in flight. An unknown id is ignored."""
        slot = self._slots.get(sampler_id)
        if slot is not None:
            self._drop(slot, "removed")

    async def certify(
        self,
        model: str,
        image: Image,
        spec: CertifySpec,
        *,
        deadline_s: float | None = None,
        on_progress: Callable[[Progress], None] | None = None,
        on_start: Callable[[], None] | None = None,
        priority: Priority = "interactive",
    ) -> Outcome:
        """Draw until the certificate is settled. Cancelling the call stops the drawing.

        Args:
            model: what the samplers call the classifier.
            image: the pixels.
            spec: what is asked; `spec.deadline` where there is a `deadline_s`.
            deadline_s: settle after this time, from now, for what is proven then.
            on_progress: told how far it is, at most ten times a second.
            on_start: told when the first noises are handed out.
            priority: `interactive` requests go first.

        Raises:
            DeadlineError: the deadline passed before the first look.
            NoWorkersError: there is no sampler, and none came in time.
            BrokenRequestError: samplers die of this request.
        """
        run = Certification(spec)
        request = Request(model, image, run, priority, on_start)
        if on_progress:
            request.on_progress = lambda: on_progress(run.progress())
        timer: asyncio.TimerHandle | None = None
        if deadline_s is not None:
            request.job_seconds = deadline_s / DEADLINE_JOBS
            timer = asyncio.get_running_loop().call_later(deadline_s, self._expire, request, run)
        try:
            return await self._answer(request)
        finally:
            if timer:
                timer.cancel()

    async def predict(
        self,
        model: str,
        image: Image,
        spec: PredictSpec,
        *,
        on_start: Callable[[], None] | None = None,
        priority: Priority = "interactive",
    ) -> PredictOutcome:
        """Draw until the prediction is settled. Arguments and errors as for `certify`."""
        return await self._answer(Request(model, image, PredictionRun(spec), priority, on_start))

    async def close(self) -> None:
        """End every request with `NoWorkersError`, and let go of the samplers."""
        self._closed = True
        for request in list(self._requests):
            request.fail(NoWorkersError("The service is shutting down: send the request to another one."))
        for slot in self._slots:
            self._drop(slot, "removed")
        for call in list(self._calls):
            call.cancel()
        await asyncio.gather(*self._calls, return_exceptions=True)

    async def _answer(self, request: Request[OutcomeT]) -> OutcomeT:
        if self._closed:
            raise NoWorkersError("The service is shutting down: send the request to another one.")
        self._requests.add(request)
        self._queues.push(request)
        self._fill_soon()
        self._watch_samplers()
        try:
            return await request.answer
        finally:
            self._requests.discard(request)
            self._queues.remove(request)
            self._fill_soon()  # it may have been in the way of others, as one without time left is

    def _expire(self, request: Request[Outcome], run: Certification) -> None:
        try:
            run.expire()
        except DeadlineError as error:
            request.fail(error)
        else:
            self._settle(request)

    def _settle(self, request: Request[Any]) -> None:
        if request.run.done and not request.over:
            self.observer.wasted(request.model, request.run.surplus, "past_stop")
            request.settle()

    def _watch_samplers(self) -> None:
        """Where there is no sampler, wait for one only so long."""
        if not self._slots and self._requests and self._out_of_patience is None and not self._closed:
            loop = asyncio.get_running_loop()
            self._out_of_patience = loop.call_later(self._patience_s, self._give_up)

    def _give_up(self) -> None:
        self._out_of_patience = None
        for request in list(self._requests):
            request.fail(NoWorkersError(f"No sampler came up within {self._patience_s:g} s: try again later."))

    def _fill_soon(self) -> None:
        """Fill the free places once all that is happening now has happened, so that requests share jobs."""
        if not self._filling and not self._closed:
            self._filling = True
            asyncio.get_running_loop().call_soon(self._fill)

    def _fill(self) -> None:
        self._filling = False
        while (slot := self._slots.next_free()) is not None and (job := self._next_job(slot)) is not None:
            self._slots.start(slot, job)
            call = asyncio.get_running_loop().create_task(self._call(slot, job))
            self._calls.add(call)
            call.add_done_callback(self._calls.discard)

    def _next_job(self, slot: Slot) -> EngineJob | None:
        """Fill one engine job: what is sure to be needed first, of one model."""
        seconds = self._job_seconds
        room, size = slot.room(seconds), 0
        parts: list[tuple[Request[Any], list[Shard]]] = []
        served: list[tuple[Rota, Request[Any]]] = []
        model: str | None = None
        for rota, speculate in self._queues.in_order():
            while size < room and (request := rota.pop(model)) is not None:
                if request.over:
                    continue
                served.append((rota, request))
                if request.job_seconds < seconds:
                    seconds = request.job_seconds
                    room = slot.room(seconds)
                share = min(room - size, self._share(slot, request, speculate))
                if share <= 0 or (request.alone and parts):
                    room = 0  # enough: this request begins the next job
                    break
                shards = request.run.next_shards(share, speculate=speculate)
                if not shards:
                    served.pop()  # back in line when its votes come
                    continue
                model = request.model
                parts.append((request, shards))
                size += sum(shard.stop - shard.start for shard in shards)
                if request.on_start:
                    request.on_start()
                    request.on_start = None
                if request.alone:
                    room = 0
        for rota, request in served:
            rota.push(request)
        return EngineJob(parts, size) if parts else None

    def _share(self, slot: Slot, request: Request[Any], speculate: bool) -> int:
        """The most noises of one request in one job: while samplers are idle, they share it between them."""
        idle = self._slots.idle
        if idle < 2 or len(self._requests) > idle:
            return slot.room(self._job_seconds)
        if speculate and request.run.available(speculate=False):
            return 0  # the others first get their share of what is sure to be needed
        even = math.ceil(request.run.available(speculate=speculate) / idle)
        return max(slot.room(LEAST_JOB_SECONDS), even)

    async def _call(self, slot: Slot, job: EngineJob) -> None:
        work = [SampleTask(request.image, shard, request.trace) for request, shards in job.parts for shard in shards]
        try:
            votes = await slot.sampler.sample_many(job.model, work)
            if len(votes) != len(work):
                raise RuntimeError(f"sampler {slot.sampler.id} returned {len(votes)} votes of {len(work)}")
        except (SamplerLostError, asyncio.CancelledError):
            if self._closed:
                return
            if not job.dropped:
                self._drop(slot, "lost")
        except Exception as error:  # noqa: BLE001  a sampler's bug or a full memory must not stop the others
            if not job.dropped:
                self._slots.finish(slot, job)
                self._fail(job, error)
        else:
            if not job.dropped:
                self._slots.finish(slot, job)
            self._receive(slot, job, votes)
        self._fill_soon()

    def _receive(self, slot: Slot, job: EngineJob, votes: list[Votes]) -> None:
        seconds = sum(vote.seconds for vote in votes)
        slot.learn(job.size, seconds, self._job_seconds)
        self.observer.drawn(job.model, job.size, seconds)
        coming = iter(votes)
        for request, shards in job.parts:
            theirs = list(zip(shards, coming, strict=False))
            if request.over:
                reason = "cancelled" if request.answer.cancelled() else "past_stop"
                self.observer.wasted(job.model, sum(shard.size for shard in shards), reason)
                continue
            try:
                for shard, vote in theirs:
                    if not request.run.give(shard, vote):
                        self.observer.wasted(job.model, shard.size, "retried")
                self._settle(request)
                self._tell(request)
            except Exception as error:  # noqa: BLE001  votes of another shape, or the caller's own callback
                request.fail(error)
            if not request.over:
                self._queues.push(request)

    def _tell(self, request: Request[Any]) -> None:
        """Let the caller know how far it is, if that is wanted and not too often."""
        if request.on_progress and not request.over:
            now = asyncio.get_running_loop().time()
            if now >= request.next_progress:
                request.next_progress = now + PROGRESS_SECONDS
                request.on_progress()

    def _fail(self, job: EngineJob, error: Exception) -> None:
        """An engine job failed: where several requests shared it, each is tried again by itself."""
        requests = job.requests
        if len(requests) == 1:
            requests[0].fail(error)
            return
        for request in requests:
            request.alone = True
        self._again(job, "error")

    def _drop(self, slot: Slot, reason: RetryReason) -> None:
        """Forget a sampler and have its shards drawn elsewhere."""
        self._slots.remove(slot)
        for job in slot.jobs:
            job.dropped = True
            self._again(job, reason)
        slot.jobs.clear()
        if reason == "lost" and self._on_lost:
            self._on_lost(slot.sampler.id)
        self._fill_soon()
        self._watch_samplers()

    def _again(self, job: EngineJob, reason: RetryReason) -> None:
        self.observer.retried(sum(len(shards) for _, shards in job.parts), reason)
        for request, shard in ((request, shard) for request, shards in job.parts for shard in shards):
            request.run.lost(shard)
            if reason == "lost":
                request.losses[shard.phase, shard.start] += 1
                losses = request.losses[shard.phase, shard.start]
                request.alone |= losses > 1
                if losses >= MAX_LOSSES:
                    request.fail(
                        BrokenRequestError(
                            f"{losses} samplers in a row went down with this image: check the model and the "
                            "samplers' memory."
                        )
                    )
            if not request.over:
                self._queues.push(request)
