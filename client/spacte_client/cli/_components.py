"""Commands of the other components, found by their entry points in the group `spacte.commands`.

A component is imported when its command is invoked, or when `spacte --help` lists it. Command-line modules
are light, so that help is instant.
"""

from collections import UserDict
from importlib.metadata import EntryPoint, entry_points
from typing import Any

import typer
import typer.main
from typer.core import TyperGroup

GROUP = "spacte.commands"

PACKAGES = {
    "bench": "spacte-workers",
    "calibrate": "spacte-workers",
    "certify-dataset": "spacte-workers",
    "diagnose": "spacte-workers",
    "evaluate": "spacte-trainer",
    "import": "spacte-core",
    "keys": "spacte-service",
    "recertify": "spacte-workers",
    "recipes": "spacte-trainer",
    "reproduce": "spacte-studies",
    "serve": "spacte-service",
    "train": "spacte-trainer",
    "verify": "spacte-workers",
}
"""Which of this repository's other packages has a command, so that a missing one can be named."""


class ComponentGroup(TyperGroup):
    """A group that also has the commands of installed components.

    A command of a component that is not installed is not listed, and fails with a sentence when it is run.
    """

    def __init__(self, **settings: Any) -> None:
        super().__init__(**settings)
        self.commands = LazyCommands(self.commands)

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        """The command of that name, or one that says which package to install; None for a name that is not known."""
        if cmd_name in self.commands or cmd_name not in PACKAGES:
            return super().get_command(ctx, cmd_name)
        if cmd_name == "verify":
            from .verify import verify_app

            return typer.main.get_command(verify_app)
        package = PACKAGES[cmd_name]
        return error_command(
            cmd_name,
            f"`spacte {cmd_name}` is part of {package}, which is not installed here; install it with "
            f"`pip install {package}`, or from a checkout with `pip install ./{package.removeprefix('spacte-')}`.",
        )


class LazyCommands(UserDict[str, Any]):
    """Commands by name: our own, then those of components, each loaded when it is looked up."""

    def __init__(self, own: Any) -> None:
        super().__init__(own)
        for point in sorted(entry_points(group=GROUP), key=lambda point: point.name):
            self.data.setdefault(point.name, point)

    def __getitem__(self, name: str) -> Any:
        command = super().__getitem__(name)
        if isinstance(command, EntryPoint):
            command = self[name] = load(command)
        return command


def load(point: EntryPoint) -> Any:
    """The command behind an entry point, or one that says why it cannot be loaded."""
    package = point.dist.name if point.dist else "its package"
    try:
        component = point.load()
        component.rich_markup_mode = None  # as in `_app`
        command = typer.main.get_command(component)
    except Exception as error:  # noqa: BLE001 - a broken component must not take the others down
        reason = f"{type(error).__name__}: {error}".splitlines()[0]
        return error_command(
            point.name,
            f"`spacte {point.name}` cannot be loaded ({reason}); reinstall {package} with "
            f"`pip install --force-reinstall {package}`.",
        )
    command.name = point.name
    command.params = [param for param in command.params if param.name not in ("install_completion", "show_completion")]
    return command


def error_command(name: str, sentence: str) -> Any:
    """A command that takes any arguments and fails with `sentence`, which is also its help."""
    component = typer.Typer(add_completion=False)
    anything = {"ignore_unknown_options": True, "allow_extra_args": True}

    @component.command(name, help=sentence, add_help_option=False, context_settings=anything)
    def fail() -> None:
        raise typer.TyperException(sentence)

    return typer.main.get_command(component)
