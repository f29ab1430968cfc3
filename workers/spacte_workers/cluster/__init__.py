"""Samplers on Ray: the actor, the pool of actors, the connection to a cluster. Nothing else here imports ray."""

import os

# Under `uv run`, Ray would ship the working folder and start every worker by `uv run` in a copy of it. Read when ray is
# imported.
os.environ.setdefault("RAY_ENABLE_UV_RUN_RUNTIME_ENV", "0")

from .connection import RayConnection, RaySettings
from .pool import RayPool

__all__ = ["RayConnection", "RayPool", "RaySettings"]
