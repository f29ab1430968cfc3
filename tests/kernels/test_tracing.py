"""Promise: a network can vote in one thread while another one is traced in the next."""

import threading

import torch
from torch import fx, nn

from spacte_core.kernels.graph.tracing import symbolic_trace


class Slow(nn.Module):
    """A network whose tracing waits, so that another thread runs meanwhile."""

    def __init__(self, tracing: threading.Event, done: threading.Event) -> None:
        super().__init__()
        self.layer = nn.Linear(4, 4)
        self.tracing, self.done = tracing, done

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Twice the layer."""
        x = self.layer(x)
        self.tracing.set()
        self.done.wait(20)
        return self.layer(x)


def test_another_thread_computes_while_one_traces() -> None:
    tracing, done = threading.Event(), threading.Event()
    other = symbolic_trace(nn.Sequential(nn.Linear(4, 4), nn.ReLU()))
    x = torch.randn(3, 4)
    before = other(x)
    traced: list[fx.GraphModule] = []
    slow = Slow(tracing, done)
    thread = threading.Thread(target=lambda: traced.append(symbolic_trace(slow)))
    thread.start()
    try:
        assert tracing.wait(20)
        assert torch.equal(other(x), before)
    finally:
        done.set()
        thread.join()
    assert [node.target for node in traced[0].graph.nodes if node.op == "call_module"] == ["layer", "layer"]
