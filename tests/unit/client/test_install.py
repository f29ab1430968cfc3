"""`pip install ./client` into an empty environment gives a working `spacte certify`, and nothing heavy."""

import json
import os
import re
import subprocess
import sys
import zipfile
from collections.abc import Callable
from importlib.metadata import requires
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from spacte_client.types import Certificate

CLIENT = Path(__file__).parents[3] / "client"
HEAVY = {"torch", "ray", "numpy", "scipy", "fastapi", "pillow", "matplotlib"}
BASE = {"httpx2", "pydantic", "rich", "typer"}

Run = Callable[..., "subprocess.CompletedProcess[str]"]


def test_the_base_dependencies_are_four() -> None:
    names = {re.split(r"[^\w-]", line)[0]: "extra ==" in line for line in requires("spacte-client") or ()}
    assert {name for name, extra in names.items() if not extra} == BASE
    assert {name for name, extra in names.items() if extra} == {"cryptography", "matplotlib"}


@pytest.fixture(scope="module")
def environment(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """`run(program, *arguments)` in a fresh virtual environment that holds the client alone."""
    folder = tmp_path_factory.mktemp("environment")
    subprocess.run([sys.executable, "-m", "venv", folder / "venv"], check=True)
    variables = {k: v for k, v in os.environ.items() if not k.startswith(("PYTHON", "SPACTE_", "VIRTUAL_ENV"))}

    def run(program: str, *arguments: str, check: bool = False) -> "subprocess.CompletedProcess[str]":
        command = [folder / "venv" / "bin" / program, *arguments]
        return subprocess.run(command, check=check, capture_output=True, text=True, env=variables, cwd=folder)

    quiet = ("--quiet", "--disable-pip-version-check")
    reached = run("pip", "download", *quiet, "--no-deps", "--dest", str(folder / "probe"), "hatchling")
    if reached.returncode != 0:
        pytest.skip(f"the package registry cannot be reached: {reached.stderr.strip().splitlines()[-1]}")
    run("pip", "wheel", *quiet, "--no-deps", "--wheel-dir", str(folder / "wheel"), str(CLIENT), check=True)
    run("pip", "install", *quiet, str(CLIENT), check=True)
    return run


@pytest.mark.slow
def test_the_wheel_is_whole(environment: Run) -> None:
    (wheel,) = Path(environment("python", "-c", "import os; print(os.getcwd())").stdout.strip()).glob("wheel/*")
    packed = set(zipfile.ZipFile(wheel).namelist())
    sources = {str(path.relative_to(CLIENT)) for path in CLIENT.glob("spacte_client/**/*.py")}
    assert sources | {"spacte_client/py.typed"} <= packed


@pytest.mark.slow
def test_nothing_heavy_comes_with_it(environment: Run) -> None:
    listed = json.loads(environment("pip", "list", "--format", "json", check=True).stdout)
    installed = {package["name"].lower() for package in listed}
    assert installed > BASE
    assert not installed & HEAVY


@pytest.mark.slow
def test_the_command_works_from_there(environment: Run, live_gateway: str, tmp_path: Path) -> None:
    shown = environment("spacte", "--help", check=True)
    assert "certify" in shown.stdout
    missing = environment("spacte", "train", "digits-spacte-gaussian")
    assert missing.returncode == 1
    assert "pip install spacte-trainer" in missing.stderr
    image = tmp_path / "digit.npy"
    np.save(image, np.arange(64, dtype=np.uint8).reshape(1, 8, 8))
    options: Any = ("--base-url", live_gateway, "--n", "200", "--n0", "20")
    answer = environment("spacte", "certify", str(image), *options)
    assert answer.returncode in (0, 3), answer.stderr
    assert str(image) in answer.stdout
    certificate = Certificate.model_validate_json(
        environment("spacte", "certify", str(image), "--json", *options).stdout
    )
    assert sum(certificate.counts) == 200
