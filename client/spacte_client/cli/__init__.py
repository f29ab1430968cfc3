"""The `spacte` command: `certify`, `predict`, `models`, ... over HTTP, and what installed components add."""

from ._app import app, main

__all__ = ["app", "main"]
