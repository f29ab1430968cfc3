"""A module as a flat graph, by symbolic tracing that leaves other threads alone.

A module whose Python code branches on tensor values, or that is compiled or scripted, cannot be traced. While it is at
work, torch.fx replaces `nn.Module.__call__` for the whole process. A sampler draws in one thread while it loads a model
in another: the calls of the drawing thread go through here as they came.
"""

import copy
import threading
from collections.abc import Callable
from typing import Any

from torch import fx, nn

from spacte_core.models.exported import Program

from .programs import layers_of_program

_one_at_a_time = threading.Lock()  # whoever ends first would take away the other's replacement


class _ThreadTracer(fx.Tracer):
    """Traces calls of the thread that made it."""

    def __init__(self) -> None:
        super().__init__()
        self._thread = threading.get_ident()

    def call_module(
        self, m: nn.Module, forward: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> Any:
        if threading.get_ident() != self._thread:
            return forward(*args, **kwargs)
        return super().call_module(m, forward, args, kwargs)

    def getattr(self, attr: str, attr_val: Any, parameter_proxy_cache: dict[str, Any]) -> Any:
        if threading.get_ident() != self._thread:
            return attr_val
        return super().getattr(attr, attr_val, parameter_proxy_cache)


def trace(module: nn.Module) -> fx.GraphModule | None:
    """The module's flat graph over copies of its layers, those of exported programs too; None where it has no such."""
    try:
        programs = (part for part in module.modules() if isinstance(part, Program))
        return symbolic_trace(
            copy.deepcopy(module, {id(part): layers_of_program(part.graph_module) for part in programs})
        )
    except Exception:  # noqa: BLE001  the module's own code fails in any way it likes on symbolic values
        return None


def symbolic_trace(module: nn.Module) -> fx.GraphModule:
    """As `torch.fx.symbolic_trace`; the same errors."""
    with _one_at_a_time:
        tracer = _ThreadTracer()
        graph = tracer.trace(module)
        return fx.GraphModule(tracer.root, graph, type(module).__name__)
