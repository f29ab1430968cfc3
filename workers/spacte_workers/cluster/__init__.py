"""Samplers on Ray: the actor, the pool of actors, the connection to a cluster. Nothing else here imports ray."""

from .connection import RayConnection, RaySettings
from .pool import RayPool

__all__ = ["RayConnection", "RayPool", "RaySettings"]
