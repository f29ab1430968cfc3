"""The gateway: images in, predictions and certified radii out. `create_app` makes the application."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .app import create_app
    from .settings import Settings

__all__ = ["Settings", "create_app"]

_HOMES = {"Settings": ".settings", "create_app": ".app"}


def __getattr__(name: str) -> Any:
    """Import a public name when it is first asked for, so that `spacte --help` loads no web framework."""
    if name in _HOMES:
        return getattr(import_module(_HOMES[name], __name__), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
