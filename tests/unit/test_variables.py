"""Promise: an environment variable that nothing reads is named at the start of a command; and none is forgotten."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from spacte_client.cli._variables import KNOWN, OPEN_PREFIX, PREFIX, warnings
from spacte_service.settings import Settings

ROOT = Path(__file__).parents[2]
PACKAGES = ("client", "core", "service", "studies", "trainer", "workers")


def named_in_the_code() -> set[str]:
    """Whole strings of the packages' code that are the name of a variable, and what Compose fills in."""
    found: set[str] = set()
    for package in PACKAGES:
        for file in (ROOT / package).rglob("*.py"):
            found |= set(re.findall(rf'"({PREFIX}[A-Z0-9_]*[A-Z0-9])"', file.read_text()))
    found |= set(re.findall(rf"\$\{{({PREFIX}\w+)", (ROOT / "docker-compose.yml").read_text()))
    found |= set(re.findall(rf"\b({PREFIX}\w+)=", (ROOT / "Dockerfile").read_text()))
    return found


def test_every_variable_is_known_and_no_other() -> None:
    settings = {PREFIX + name.upper() for name in Settings.model_fields}
    read = {name for name in settings | named_in_the_code() if not name.startswith(OPEN_PREFIX)}
    assert {PREFIX + name for name in KNOWN} == read
    assert len(read) > len(settings) + 5


@pytest.mark.parametrize(
    ("name", "remedy"),
    [
        ("SPACTE_MODLES", "did you mean SPACTE_MODELS?"),
        ("SPACTE_APIKEY", "did you mean SPACTE_API_KEY?"),
        ("SPACTE_BASEURL", "did you mean SPACTE_BASE_URL?"),
        ("SPACTE_KERNEL", "did you mean SPACTE_KERNELS?"),
        ("SPACTE_FOO", "remove it, or see `spacte serve --help`."),
    ],
)
def test_what_nothing_reads_is_named_with_the_nearest(name: str, remedy: str) -> None:
    assert list(warnings({name: "1", "HOME": "/"})) == [f"{name} is no setting: {remedy}"]


def test_what_is_read_is_passed_over() -> None:
    names = [PREFIX + name for name in KNOWN] + ["SPACTE_ENDPOINT_TOKEN", "SPACTE", "MY_SPACTE_MODLES"]
    assert list(warnings(dict.fromkeys(names, "1"))) == []


def test_the_command_says_so_on_standard_error() -> None:
    environment = {name: value for name, value in os.environ.items() if not name.startswith(PREFIX)}
    command = [str(Path(sys.executable).with_name("spacte")), "--version"]
    environment |= {"SPACTE_MODLES": "/models", "SPACTE_MODELS": "/models"}
    done = subprocess.run(command, check=True, capture_output=True, text=True, env=environment)
    assert done.stdout.startswith("spacte ")
    assert done.stderr == "Warning: SPACTE_MODLES is no setting: did you mean SPACTE_MODELS?\n"
