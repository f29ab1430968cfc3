"""The published sampling loop, restated, and a fresh process in which it can be timed.

Cohen et al. 2019 (and, with summed head logits, the SPACTE scripts) certify one image at a time: batches of 128 copies
in eager float32, noise from `randn_like`, the predictions moved to the host after each batch and counted in a Python
loop.

A process of its own matters: one that has run other kernels before, or that keeps its memory, runs the same loop up to
one and a half times as fast.
"""

import time
from collections.abc import Callable, Generator
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path

import torch

BATCH = 128  # chosen: copies a batch; the scripts leave it to the caller


@dataclass(frozen=True)
class Subject:
    """What is timed.

    Attributes:
        arch, heads, sigma: of the network, see `networks.py`.
        checkpoint: folder of a trained one instead.
        seconds: how long one timing lasts at least.
        threads: cores that torch may use.
        keep_memory: let the C allocator keep its memory.
    """

    arch: str
    heads: int
    sigma: float
    checkpoint: Path | None
    device: str
    seconds: float
    threads: int
    keep_memory: bool = False


@contextmanager
def published_loop(subject: Subject) -> Generator[Callable[[], float]]:
    """The loop in a process of its own, idle between timings, as a function that times it: samples a second."""
    process = ProcessPoolExecutor(1, get_context("spawn"), initializer=_prepare, initargs=(subject,))
    with process:
        process.submit(_ready).result()
        yield lambda: process.submit(_samples_per_second).result()


_prepared: list[Callable[[], float]] = []


def _prepare(subject: Subject) -> None:
    _prepared.append(timed_loop(subject))


def _ready() -> bool:
    return bool(_prepared)


def _samples_per_second() -> float:
    return _prepared[0]()


def timed_loop(subject: Subject) -> Callable[[], float]:
    """The loop on one image: each call draws batches for a while and returns samples per second."""
    from spacte_core.allocator import keep_freed_memory

    from .networks import network_of

    torch.set_num_threads(subject.threads)
    if subject.keep_memory:
        keep_freed_memory()
    net, config = network_of(subject.arch, subject.heads, subject.sigma, subject.checkpoint)
    net = net.to(subject.device).eval()
    x_CHW = torch.rand(config.input_shape, generator=torch.Generator().manual_seed(0)).to(subject.device)
    counts = [0] * config.num_classes

    @torch.no_grad()
    def one_batch() -> None:
        batch = x_CHW.repeat((BATCH, 1, 1, 1))
        noise = torch.randn_like(batch) * subject.sigma
        logits = net(batch + noise)
        predictions = torch.stack(logits).sum(0).argmax(1)
        for prediction in predictions.cpu().numpy():
            counts[prediction] += 1

    one_batch()

    def timed() -> float:
        drawn, started = 0, time.perf_counter()
        while (passed := time.perf_counter() - started) < subject.seconds:
            one_batch()
            drawn += BATCH
        return drawn / passed

    return timed
