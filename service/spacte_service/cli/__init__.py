"""The service's commands, as the `spacte` command finds them."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .keys import keys_app
    from .serve import serve_app

__all__ = ["keys_app", "serve_app"]


def __getattr__(name: str) -> Any:
    """Import a command when it is called, and not another one with it."""
    if name == "keys_app":
        from .keys import keys_app

        return keys_app
    if name == "serve_app":
        from .serve import serve_app

        return serve_app
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
