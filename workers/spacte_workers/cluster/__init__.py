"""Samplers on Ray: the actor, the pool of actors, the way into a cluster. Nothing else here imports ray."""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .cluster import RayConnection, RaySettings
    from .pool import RayPool

__all__ = ["RayConnection", "RayPool", "RaySettings"]


def __getattr__(name: str) -> object:
    if name == "RayPool":
        from .pool import RayPool

        return RayPool
    if name in __all__:
        from . import cluster

        return getattr(cluster, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
