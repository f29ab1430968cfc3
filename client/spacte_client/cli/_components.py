"""Commands of the other components, found by their entry points in the group `spacte.commands`.

A component is imported when its command is invoked, or when `spacte --help` lists it. Command-line modules
are light, so that help is instant.
"""

from collections.abc import Iterator, MutableMapping
from importlib.metadata import EntryPoint, entry_points
from typing import Any

import typer
import typer.main
from typer.core import TyperGroup

GROUP = "spacte.commands"

KNOWN = {
    "bench": "spacte-workers",
    "certify-dataset": "spacte-workers",
    "evaluate": "spacte-trainer",
    "import": "spacte-core",
    "keys": "spacte-service",
    "recipes": "spacte-trainer",
    "reproduce": "spacte-studies",
    "serve": "spacte-service",
    "train": "spacte-trainer",
    "verify": "spacte-workers",
}
"""Commands of this repository's other packages, so that a missing one can be named."""

COMPLETION_OPTIONS = ("install_completion", "show_completion")


class ComponentGroup(TyperGroup):
    """A group that also has the commands of installed components."""

    def __init__(self, **settings: Any) -> None:
        super().__init__(**settings)
        self.commands = Commands(self.commands)


class Commands(MutableMapping[str, Any]):
    """Commands by name. Those of components are loaded when they are looked up.

    A command of a component that is not installed is not listed, but can be looked up, and fails with a
    sentence when it is run.
    """

    def __init__(self, own: MutableMapping[str, Any]) -> None:
        self._own = dict(own)
        self._found = {point.name: point for point in reversed(tuple(entry_points(group=GROUP)))}

    def __getitem__(self, name: str) -> Any:
        if name in self._own:
            return self._own[name]
        if name in self._found:
            self._own[name] = load(self._found[name])
            return self._own[name]
        if name in KNOWN:
            package = KNOWN[name]
            folder = package.removeprefix("spacte-")
            return failing(
                name,
                f"`spacte {name}` is part of {package}, which is not installed here; install it with "
                f"`pip install {package}`, or from a checkout with `pip install ./{folder}`.",
            )
        raise KeyError(name)

    def __setitem__(self, name: str, command: Any) -> None:
        self._own[name] = command

    def __delitem__(self, name: str) -> None:
        del self._own[name]

    def __iter__(self) -> Iterator[str]:
        return iter(dict.fromkeys([*self._own, *sorted(self._found)]))

    def __len__(self) -> int:
        return len(list(iter(self)))


def load(point: EntryPoint) -> Any:
    """The command behind an entry point, or one that says why it cannot be loaded."""
    package = point.dist.name if point.dist else "its package"
    try:
        component = point.load()
        component.rich_markup_mode = None  # as the root's, see there
        command = typer.main.get_command(component)
    except Exception as error:  # noqa: BLE001 - a broken component must not take the others down
        reason = f"{type(error).__name__}: {error}".splitlines()[0]
        return failing(
            point.name,
            f"`spacte {point.name}` cannot be loaded ({reason}); reinstall {package} with "
            f"`pip install --force-reinstall {package}`.",
        )
    command.name = point.name
    command.params = [param for param in command.params if param.name not in COMPLETION_OPTIONS]
    return command


def failing(name: str, sentence: str) -> Any:
    """A command that takes any arguments and fails with `sentence`, which is also its help."""
    component = typer.Typer(add_completion=False)
    anything = {"ignore_unknown_options": True, "allow_extra_args": True}

    @component.command(name, help=sentence, add_help_option=False, context_settings=anything)
    def fail() -> None:
        raise typer.TyperException(sentence)

    return typer.main.get_command(component)
