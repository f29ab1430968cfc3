"""How large a cluster one coordinator can feed: the real coordinator, simulated samplers, one core's worth
of time.

    python -m benchmarks.simulated_cluster [--samplers 256] [--images 10000] [--rate 5000] [--call-ms 0.5] [--json]

Time is simulated: it passes by as much as the samplers need, and by the processor time that this thread
really takes, as if the coordinator had one core to itself. So the result does not depend on what else the
machine is doing. Making up the votes is not the coordinator's work, and its processor time is left out.
"""

import argparse
import asyncio
import json
import random
import selectors
import time
from collections.abc import Callable, Sequence
from typing import Any

from scipy.special import ndtr

from spacte_workers.bench.simulated import probabilities, simulated_image, simulated_votes
from spacte_workers.certification.algorithm import CertifySpec
from spacte_workers.scheduling.coordinator import Coordinator
from spacte_workers.scheduling.observers import SampleCounters
from spacte_workers.shards import Image, SampleTask, Votes


class SimulatedClock(selectors.DefaultSelector):
    """A selector that never waits: it moves the clock instead."""

    def __init__(self) -> None:
        super().__init__()
        self.skipped = 0.0
        """Seconds that a real selector would have waited."""
        self.left_out = 0.0
        """Processor seconds that do not count."""
        self.added = 0.0
        """Processor seconds that are not spent here, but would be."""

    def now(self) -> float:
        """Simulated seconds."""
        return self.skipped + self.busy()

    def busy(self) -> float:
        """Processor seconds of this thread that count."""
        return time.thread_time() - self.left_out + self.added

    def select(self, timeout: float | None = None) -> Any:
        """What is ready; the time until something will be passes at once."""
        self.skipped += max(timeout or 0.0, 0.0)
        return super().select(0)


class Loop(asyncio.SelectorEventLoop):
    """An event loop on the simulated clock."""

    def __init__(self) -> None:
        self.clock = SimulatedClock()
        super().__init__(self.clock)

    def time(self) -> float:
        """Simulated seconds."""
        return self.clock.now()


class Sampler:
    """Draws `rate` noises a second in full batches, one call after the other."""

    def __init__(self, name: str, options: argparse.Namespace, clock: SimulatedClock) -> None:
        self.id = name
        self.busy_s = 0.0
        self._rate, self._batch, self._clock = options.rate, options.batch, clock
        self._overhead_s, self._call_s = options.overhead, options.call_ms / 1000
        self._free_at = 0.0

    async def sample_many(self, model: str, tasks: Sequence[SampleTask]) -> list[Votes]:  # noqa: ARG002
        """The votes of the shards, when they would be there."""
        noises = sum(task.shard.size for task in tasks)
        seconds = -(-noises // self._batch) * self._batch / self._rate
        now = self._clock.now()
        self._free_at = max(self._free_at, now + self._overhead_s) + seconds
        await asyncio.sleep(self._free_at + self._overhead_s - now)
        self.busy_s += seconds
        started = time.thread_time()
        votes = [
            Votes(simulated_votes(task.shard, probabilities(task.image)), seconds * task.shard.size / noises)
            for task in tasks
        ]
        self._clock.left_out += time.thread_time() - started
        self._clock.added += self._call_s
        return votes


def images(count: int, seed: int = 0) -> list[Image]:
    """Images whose radii spread from wrong answers to nearly unanimous votes."""
    rng = random.Random(seed)
    tops = [float(ndtr(rng.uniform(-0.5, 3.8))) for _ in range(count)]
    return [simulated_image([p, 0.7 * (1 - p), 0.3 * (1 - p)]) for p in tops]


def spec(index: int, n_max: int, target: float | None) -> CertifySpec:
    """One image's question at sigma = 1."""
    return CertifySpec(
        sigma=1.0,
        num_classes=3,
        n0=100,
        n_max=n_max,
        alpha=0.001,
        bound="clopper_pearson",
        noise="grid",
        seed="0" * 32,
        image_index=index,
        target_radius=target,
    )


async def run(options: argparse.Namespace, clock: SimulatedClock) -> dict[str, float]:
    """One job over all images, and what it took."""
    counters = SampleCounters()
    coordinator = Coordinator(call_seconds=options.call_seconds, observer=counters)
    samplers = [Sampler(f"s{i}", options, clock) for i in range(options.samplers)]
    for sampler in samplers:
        coordinator.add_sampler(sampler, options.rate, options.batch)
    todo = iter(enumerate(images(options.images)))

    async def worker() -> None:
        for index, image in todo:
            await coordinator.certify("m", image, spec(index, options.n, options.target), priority="batch")

    began, began_busy = clock.now(), clock.busy()
    await asyncio.gather(*(worker() for _ in range(options.in_flight * options.samplers)))
    took, processor = clock.now() - began, clock.busy() - began_busy
    await coordinator.close()
    calls, drawn = counters.calls["m"], counters.samples_drawn["m"]
    return {
        "samplers": options.samplers,
        "images": options.images,
        "seconds": took,
        "busy_share": sum(sampler.busy_s for sampler in samplers) / took / len(samplers),
        "coordinator_share": processor / took,
        "calls_per_second": calls / took,
        "coordinator_ms_per_call": 1000 * processor / calls,
        "noises_per_image": drawn / options.images,
        "wasted_share": sum(counters.samples_wasted.values()) / drawn,
    }


def main() -> None:
    """Run and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add: Callable[..., Any] = parser.add_argument
    add("--samplers", type=int, default=256)
    add("--images", type=int, default=10_000)
    add("--rate", type=float, default=5_000, help="noises a second of one sampler")
    add("--batch", type=int, default=64, help="rows of a sampler's batch")
    add("--overhead", type=float, default=0.001, help="seconds on the way to a sampler, and back again")
    add("--call-ms", type=float, default=0.0, help="processor time that a call costs, as one to a Ray actor does")
    add("--call-seconds", type=float, default=0.1, help="length of a call to a sampler")
    add("--in-flight", type=int, default=8, help="images in flight a sampler")
    add("--n", type=int, default=100_000, help="the most estimation noises")
    add("--target", type=float, default=1.0, help="target radius over sigma; 0 draws all of n")
    add("--json", action="store_true")
    options = parser.parse_args()
    options.target = options.target or None
    loop = Loop()
    try:
        result = loop.run_until_complete(run(options, loop.clock))
    finally:
        loop.close()
    if options.json:
        print(json.dumps(result))
    else:
        for name, value in result.items():
            print(f"{name:24}{value:12,.3f}")


if __name__ == "__main__":
    main()
