"""CUDA graphs: the kernels of a task captured once and launched as a whole."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, TypeVar

import torch

Result = TypeVar("Result")

WARM_UPS = 3
"""Runs before a capture, in which libraries choose kernels and allocate; as many as `torch.cuda.make_graphed_callables`
makes."""


@contextmanager
def launched_on(stream: torch.cuda.Stream) -> Iterator[None]:
    """Launch on `stream`, after the current stream's work; the current stream then waits for it."""
    current = torch.cuda.current_stream(stream.device)
    stream.wait_stream(current)
    with torch.cuda.stream(stream):
        yield
    current.wait_stream(stream)


def capture(
    task: Callable[[], Result],
    stream: torch.cuda.Stream,
    *,
    pool: Any = None,
    generators: Sequence[torch.Generator] = (),
) -> tuple[torch.cuda.CUDAGraph, Result]:
    """Capture what a task launches; nothing is computed before the graph is replayed.

    Args:
        task: reads and writes tensors that stay where they are.
        stream: on which it has been run before.
        pool: memory that several graphs share; None: the graph's own.
        generators: of the device, from which the task draws; each replay draws on.

    Returns:
        The graph, and the task's result, whose tensors each replay overwrites.

    Raises:
        RuntimeError: something in the task cannot be captured.
    """
    graph = torch.cuda.CUDAGraph()
    for generator in generators:
        graph.register_generator_state(generator)
    # Other threads use the device meanwhile: what they allocate must not spoil the capture.
    with (
        torch.cuda.device(stream.device),
        torch.cuda.graph(graph, pool=pool, stream=stream, capture_error_mode="thread_local"),
    ):
        result = task()
    return graph, result
