"""The root command: components are listed and loaded lazily, missing or broken ones give one sentence."""

import importlib
import subprocess
import sys
import tomllib
from importlib.metadata import EntryPoint
from pathlib import Path
from typing import Any

import pytest
import typer

from spacte_client.cli import _components

from .conftest import Spacte

HEAVY = (
    "torch",
    "ray",
    "fastapi",
    "uvicorn",
    "numpy",
    "scipy",
    "matplotlib",
    "sqlalchemy",
    "httpx2",
    "pydantic",
    "PIL",
    "rich",
)

single = typer.Typer()


@single.command()
def _one(number: int = 1) -> None:
    """Do one thing."""
    typer.echo(f"number {number}")


double = typer.Typer(help="Do two things.")


@double.command()
def first() -> None:
    """Do the first."""
    typer.echo("first")


@double.command()
def second() -> None:
    """Fail."""
    raise typer.TyperException("Do something else.")


@double.command()
def third() -> None:
    """Need what is not there."""
    importlib.import_module("no_such_module_anywhere")


not_an_app = 3


def points(monkeypatch: pytest.MonkeyPatch, **targets: str) -> None:
    found = tuple(EntryPoint(name, value, _components.GROUP) for name, value in targets.items())
    monkeypatch.setattr(_components, "entry_points", lambda group: found)


@pytest.fixture
def components(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "example_component", sys.modules[__name__])
    points(
        monkeypatch,
        train="example_component:single",
        two="example_component:double",
        broken="no_such_module_anywhere:app",
        odd="example_component:not_an_app",
    )


@pytest.mark.usefixtures("components")
def test_help_lists_own_commands_and_components(spacte: Spacte) -> None:
    run = spacte("--help")
    assert run.status == 0
    for expected in ("certify", "jobs", "doctor", "train", "Do one thing.", "Do two things.", "cannot be loaded"):
        assert expected in run.out
    assert "\n  serve" not in run.out


@pytest.mark.usefixtures("components")
def test_an_app_with_one_command_is_that_command(spacte: Spacte) -> None:
    assert spacte("train", "--number", "5") == (0, "number 5\n", "")
    assert spacte("two", "first") == (0, "first\n", "")
    assert "--install-completion" not in spacte("train", "--help").out
    assert "Usage: spacte train" in spacte("train", "--help").out


@pytest.mark.usefixtures("components")
def test_a_component_s_error_is_one_sentence(spacte: Spacte) -> None:
    assert spacte("two", "second") == (1, "", "Error: Do something else.\n")


@pytest.mark.usefixtures("components")
@pytest.mark.parametrize("name", ["broken", "odd"])
def test_a_broken_component_is_one_sentence_and_takes_nothing_else_down(spacte: Spacte, name: str) -> None:
    run = spacte(name, "--any", "option", "--help")
    assert run.status == 1
    assert run.err.startswith(f"Error: `spacte {name}` cannot be loaded (")
    assert "reinstall" in run.err
    assert run.err.count("\n") == 1


def test_every_component_of_this_repository_is_known() -> None:
    declared: dict[str, str] = {}
    for path in Path(__file__).parents[3].glob("*/pyproject.toml"):
        project = tomllib.loads(path.read_text())["project"]
        for command in project.get("entry-points", {}).get(_components.GROUP, {}):
            declared[command] = project["name"]
    assert declared.items() <= _components.PACKAGES.items()


@pytest.mark.usefixtures("components")
def test_a_module_that_is_missing_when_a_command_runs_is_one_sentence(spacte: Spacte) -> None:
    run = spacte("two", "third")
    assert run.status == 1
    assert run.err.startswith("Error: Something that this command needs is not installed (No module named")
    assert run.err.count("\n") == 1


def test_a_missing_component_names_its_package(spacte: Spacte, monkeypatch: pytest.MonkeyPatch) -> None:
    points(monkeypatch)
    for command, package in _components.PACKAGES.items():
        if command == "verify":  # of the client itself, which asks workers for what signatures do not prove
            continue
        run = spacte(command, "RECIPE", "--out", "x", "--help")
        assert run.status == 1
        assert f"pip install {package}" in run.err
        assert run.err.count("\n") == 1
    assert "\n  train" not in spacte("--help").out


@pytest.mark.usefixtures("components")
def test_a_misspelt_component_is_suggested(spacte: Spacte) -> None:
    run = spacte("trian")
    assert run.status == 2
    assert "'train'" in run.err


def test_only_the_invoked_component_is_imported(monkeypatch: pytest.MonkeyPatch) -> None:
    loaded: list[str] = []

    def load(point: EntryPoint) -> Any:
        loaded.append(point.name)
        return single

    points(monkeypatch, train="x:y", two="x:z")
    monkeypatch.setattr(EntryPoint, "load", load)
    commands = _components.LazyCommands({})
    assert list(commands) == ["train", "two"]
    assert len(commands) == 2
    assert loaded == []
    assert commands["two"].name == "two"
    assert commands["two"] is commands["two"]
    assert loaded == ["two"]
    with pytest.raises(KeyError):
        commands["nothing"]
    commands["mine"] = commands["two"]
    del commands["mine"]
    assert "mine" not in commands


def test_the_version(spacte: Spacte) -> None:
    from spacte_client import __version__

    assert spacte("--version").out == f"spacte {__version__}\n"


def test_no_arguments_show_the_help(spacte: Spacte) -> None:
    run = spacte()
    assert run.status == 2
    assert "Commands:" in run.out + run.err


def test_help_of_the_installed_command_imports_nothing_heavy() -> None:
    program = (
        "import sys\nfrom spacte_client.cli import main\nsys.argv = ['spacte', '--help']\n"
        "try:\n    main()\nexcept SystemExit:\n    pass\n"
        f"print([m for m in {HEAVY!r} if m in sys.modules])"
    )
    run = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert "Commands:" in run.stdout
    assert run.stdout.splitlines()[-1] == "[]"


def test_the_module_is_the_command() -> None:
    for arguments, status, words in ((["--version"], 0, "spacte"), (["nope"], 2, "No such command 'nope'")):
        done = subprocess.run(
            [sys.executable, "-m", "spacte_client", *arguments], capture_output=True, text=True, check=False
        )
        assert (done.returncode, words in done.stdout + done.stderr) == (status, True)
