"""Certification: noise, votes, bounds, and their sharding. A name is imported when it is first used."""

from importlib import import_module
from typing import TYPE_CHECKING

from spacte_core.openmp import set_wait_policy

if TYPE_CHECKING:
    from spacte_core.models.adapters import LogitsOf

    from .engine.errors import EngineError
    from .errors import BadParameterError, DeadlineExceededError
    from .images import BadImageError
    from .local import LocalCertifier
    from .saving import save_model

__all__ = [
    "BadImageError",
    "BadParameterError",
    "DeadlineExceededError",
    "EngineError",
    "LocalCertifier",
    "LogitsOf",
    "save_model",
]

_MODULES = {
    "BadImageError": ".images",
    "BadParameterError": ".errors",
    "DeadlineExceededError": ".errors",
    "EngineError": ".engine.errors",
    "LocalCertifier": ".local",
    "LogitsOf": "spacte_core.models.adapters",
    "save_model": ".saving",
}


set_wait_policy()  # here, since every module of this package that imports PyTorch is imported later


def __getattr__(name: str) -> object:
    if name in _MODULES:
        return getattr(import_module(_MODULES[name], __name__), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
