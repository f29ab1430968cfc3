"""Writes `docs/cli.md` from the commands' own help; a test checks that the committed page is current.

python docs/cli_reference.py > docs/cli.md
"""

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import typer

from spacte_client.cli import app

HEAD = """# Command line

One command, `spacte`; each installed component adds to it. Below is what every command says of itself with `--help`.
Errors are one sentence on standard error with exit code 1; wrong usage has exit code 2.
"""


def commands() -> Iterator[list[str]]:
    """The words of every command: the root, each command, and each command of a group behind its group."""
    root: Any = typer.main.get_command(app)
    yield []
    for name in listed(root):
        yield [name]
        yield from ([name, inner] for inner in listed(root.get_command(typer.Context(root), name)))


def listed(command: Any) -> list[str]:
    """The names of a group's commands; none of what is no group."""
    return command.list_commands(typer.Context(command)) if hasattr(command, "list_commands") else []


def help_of(command: list[str]) -> str:
    """What the command prints for --help, in a terminal of 100 columns without colours."""
    spacte = Path(sys.executable).with_name("spacte")
    environment = {
        **os.environ,
        "COLUMNS": "100",
        "NO_COLOR": "1",
        "TERM": "dumb",
        "_TYPER_FORCE_DISABLE_TERMINAL": "1",
    }
    done = subprocess.run([spacte, *command, "--help"], capture_output=True, text=True, env=environment, check=True)
    return "\n".join(line.rstrip() for line in done.stdout.strip().splitlines())


def page() -> str:
    """The whole page in Markdown."""
    return "\n".join([HEAD, *(section(command) for command in commands())])


def section(command: list[str]) -> str:
    """One command's part of the page."""
    return f"## `{' '.join(['spacte', *command])}`\n\n```text\n{help_of(command)}\n```\n"


if __name__ == "__main__":
    sys.stdout.write(page())
