"""Noise to votes: draws a shard's noises, runs the base classifier on fixed batches, counts."""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .engine import Engine
    from .errors import EngineError

__all__ = ["Engine", "EngineError"]


def __getattr__(name: str) -> object:
    if name == "Engine":
        from .engine import Engine

        return Engine
    if name == "EngineError":
        from .errors import EngineError

        return EngineError
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
