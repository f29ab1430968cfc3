"""The gateway's Ray in a process of its own: when raylet or GCS die, Ray ends the process that is connected to them."""

from .messages import RayOptions
from .pool import ProcessPool, RayRunner

__all__ = ["ProcessPool", "RayOptions", "RayRunner"]
