"""Certification: noise, votes, bounds, and their sharding. A name is imported when it is first used."""

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .engine.errors import EngineError
    from .errors import BadParameterError, DeadlineExceededError
    from .images import BadImageError
    from .local import LocalCertifier

__all__ = ["BadImageError", "BadParameterError", "DeadlineExceededError", "EngineError", "LocalCertifier"]

_MODULES = {
    "BadImageError": "images",
    "BadParameterError": "errors",
    "DeadlineExceededError": "errors",
    "EngineError": "engine.errors",
    "LocalCertifier": "local",
}


def __getattr__(name: str) -> object:
    if name in _MODULES:
        return getattr(import_module(f".{_MODULES[name]}", __name__), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
