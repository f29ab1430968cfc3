"""Samplers on Ray: the actor, the pool of actors, the way into a cluster. Nothing else here imports ray."""

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .connection import RayConnection, RaySettings
    from .pool import RayPool

__all__ = ["RayConnection", "RayPool", "RaySettings"]


def __getattr__(name: str) -> object:
    if name in __all__:
        return getattr(import_module(".pool" if name == "RayPool" else ".connection", __name__), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
