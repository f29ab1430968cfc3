"""`spacte serve`, as far as `spacte --help` needs it; the options come with the settings when it is invoked."""

from functools import cached_property
from typing import Any

import typer
import typer.main
from typer.core import TyperCommand


class ServeCommand(TyperCommand):
    """A command whose options are the fields of the settings, which are imported when they are asked for."""

    @cached_property
    def _whole(self) -> Any:
        from .serve_options import options_app

        return typer.main.get_command(options_app)

    def get_params(self, ctx: Any) -> list[Any]:
        """The options of the settings, and `--help`."""
        return self._whole.get_params(ctx)

    def invoke(self, ctx: Any) -> Any:
        """Serve."""
        return self._whole.invoke(ctx)


serve_app = typer.Typer(add_completion=False)


@serve_app.command(cls=ServeCommand)
def serve() -> None:
    """Serve the models of a folder over HTTP until SIGTERM or Ctrl-C.

    The port opens at once; one line with the address is printed when the models are loaded. Requests in flight at a
    signal are finished.
    """
