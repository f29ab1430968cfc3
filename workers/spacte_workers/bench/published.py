"""The published sampling loop, restated, and a fresh process in which it can be timed.

Cohen et al. 2019 (and, with summed head logits, the SPACTE scripts) certify one image at a time: batches of
128 copies in eager float32, noise from `randn_like`, the predictions moved to the host after each batch and
counted in a Python loop.

`python -m spacte_workers.bench.published` reads a request as JSON on its first line, answers `ready`, and
then times the loop once for each further line. A process of its own matters: one that has run other kernels
before, or that keeps its memory, runs the same loop up to one and a half times as fast.
"""

import json
import subprocess
import sys
import time
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass
from types import TracebackType
from typing import IO

BATCH = 128


@dataclass(frozen=True)
class Request:
    """What a process times.

    Attributes:
        arch, heads, sigma: of the network, see `networks.py`.
        checkpoint: folder of a trained one instead.
        device: a torch device.
        keep_memory: let the C allocator keep its memory.
        seconds: how long one timing lasts at least.
        threads: cores that torch may use.
    """

    arch: str
    heads: int
    sigma: float
    checkpoint: str | None
    device: str
    keep_memory: bool
    seconds: float
    threads: int


class PublishedLoop:
    """The loop in a process of its own, idle between timings. A context manager that ends the process.

    Args:
        request: what it times.
    """

    def __init__(self, request: Request) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-m", "spacte_workers.bench.published"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        self._say(json.dumps(asdict(request)))
        self._hear()

    def samples_per_second(self) -> float:
        """Time the loop once."""
        self._say("time")
        return float(self._hear())

    def __enter__(self) -> "PublishedLoop":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._pipe(self.process.stdin).close()
        self.process.wait(timeout=60)

    def _say(self, line: str) -> None:
        pipe = self._pipe(self.process.stdin)
        pipe.write(line + "\n")
        pipe.flush()

    def _hear(self) -> str:
        line = self._pipe(self.process.stdout).readline()
        if not line:
            raise RuntimeError("the process that times the published loop ended; its error is above")
        return line

    def _pipe(self, pipe: IO[str] | None) -> IO[str]:
        if pipe is None:
            raise RuntimeError("the process was started without pipes")
        return pipe


def timed_loop(request: Request) -> Callable[[], float]:
    """The loop on one image: each call draws batches for a while and returns samples per second."""
    import torch

    from spacte_core.allocator import keep_freed_memory

    from .networks import config_of, settled_network

    torch.set_num_threads(request.threads)
    if request.keep_memory:
        keep_freed_memory()
    if request.checkpoint:
        from spacte_core.checkpoint import load_checkpoint

        checkpoint = load_checkpoint(request.checkpoint)
        net, config = checkpoint.net, checkpoint.config.model
    else:
        config = config_of(request.arch, request.heads)
        net = settled_network(config, request.sigma)
    net = net.to(request.device).eval()
    x_CHW = torch.rand(config.input_shape, generator=torch.Generator().manual_seed(0)).to(request.device)
    counts = [0] * config.num_classes

    @torch.no_grad()
    def one_batch() -> None:
        batch = x_CHW.repeat((BATCH, 1, 1, 1))
        noise = torch.randn_like(batch) * request.sigma
        logits = net(batch + noise)
        predictions = torch.stack(logits).sum(0).argmax(1)
        for prediction in predictions.cpu().numpy():
            counts[prediction] += 1

    one_batch()

    def timed() -> float:
        drawn, started = 0, time.perf_counter()
        while (passed := time.perf_counter() - started) < request.seconds:
            one_batch()
            drawn += BATCH
        return drawn / passed

    return timed


def serve(lines: Iterable[str]) -> None:
    """Answer requests line by line, see the file's first lines."""
    requests = iter(lines)
    timed = timed_loop(Request(**json.loads(next(requests))))
    sys.stdout.write("ready\n")
    sys.stdout.flush()
    for _ in requests:
        sys.stdout.write(f"{timed()}\n")
        sys.stdout.flush()


if __name__ == "__main__":
    serve(sys.stdin)
