"""Promise: every example in the README and the documentation runs as it stands, or names only what there is.

Python and `curl` and `spacte certify` run against the real gateway, with files of the names that the text uses; a
hundred thousand noises are a thousand here. Of commands that would take a cluster or minutes, the command, its
options and its make targets are looked up.
"""

import re
import shlex
import shutil
import subprocess
import textwrap
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from .conftest import RealGateway, Spacte

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[3]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]
GENERATED = "cli.md"
OTHERS = (
    "mkdir", "openssl", "docker", "pip", "model_signing", "openapi-python-client", "kubectl", "sed", "export",
)  # fmt: skip
"""Programs that are not ours; their lines are not checked."""

ELSEWHERE = {"kserve": "tests/unit/service/test_kserve.py"}
"""Packages of examples that are not installed here, and the test that has the same calls."""

ADDRESS = "http://127.0.0.1:8000"


def blocks(*kinds: str) -> list[tuple[str, str]]:
    """The fenced blocks of some kinds, each with where it stands."""
    found: list[tuple[str, str]] = []
    for page in PAGES:
        if page.name == GENERATED:
            continue
        block: list[str] | None = None
        kind = ""
        for line in page.read_text().splitlines():
            fence = re.fullmatch(r" *```(\w*)( \w+)?", line)
            if fence and block is None:
                block, kind = [], fence[1]
            elif fence and block is not None:
                if kind in kinds:
                    found.append((f"{page.name}-{len(found)}", textwrap.dedent("\n".join(block))))
                block = None
            elif block is not None:
                block.append(line)
    return found


PYTHON = [(where, code) for where, code in blocks("python") if not where.startswith("extending.md")]
"""Those of `docs/extending.md` are run one after the other by `tests/integration/test_extending.py`."""


def commands(block: str) -> list[str]:
    """The lines of a block without comments, each with those that continue it."""
    lines = (re.split(r"(?:^|\s)#", line)[0].strip() for line in block.replace("\\\n", " ").splitlines())
    return [line for line in lines if line]


LINES = [(f"{where}: {line}", line) for where, block in blocks("", "bash", "sh", "console") for line in commands(block)]


@pytest.fixture
def place(live_gateway: str, real_gateway: RealGateway, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> str:
    """A folder with the files that examples name; gives the gateway's address."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("SPACTE_BASE_URL", live_gateway)
    picture = Image.frombytes("L", (8, 8), bytes(range(0, 256, 4)))
    for name in ("demo/data/digits-8.png", "demo/models/digits/samples/00085-8.png", "cat.png", "digit.png"):
        Path(name).parent.mkdir(parents=True, exist_ok=True)
        picture.save(name)
    shutil.copytree(real_gateway.models / "digits", "demo/models/digits", dirs_exist_ok=True)
    return live_gateway


@pytest.mark.parametrize(("where", "code"), PYTHON, ids=[where for where, _ in PYTHON])
def test_python_runs(where: str, code: str, place: str) -> None:
    from torch import nn

    from spacte_workers import LocalCertifier

    channels = nn.Sequential(nn.Flatten(), nn.Linear(3 * 32 * 32, 10))
    names: dict[str, Any] = {
        "__name__": "__main__",
        "LocalCertifier": LocalCertifier,
        "image": np.zeros((1, 8, 8), np.uint8),
        "module": channels,
    }
    for address, ours in ((ADDRESS, place), (ADDRESS.removeprefix("http://"), place.removeprefix("http://"))):
        code = code.replace(address, ours)
    try:
        exec(compile(code.replace("100_000", "1_000"), where, "exec"), names)
    except ModuleNotFoundError as error:
        if error.name not in ELSEWHERE:
            raise
        pytest.skip(f"{error.name} is not installed, since it does not fit our pins; {ELSEWHERE[error.name]} runs it")
    if "certificate" in names:
        assert names["certificate"].n >= 1


def test_there_are_examples() -> None:
    assert len(PYTHON) >= 5
    assert {line.split()[0] for _, line in LINES} >= {"make", "curl", "spacte"}


@pytest.mark.parametrize(("where", "line"), LINES, ids=[where for where, _ in LINES])
def test_a_command_runs_or_names_what_there_is(where: str, line: str, place: str, spacte: Spacte) -> None:
    words = [word for word in shlex.split(line) if not re.fullmatch(r"[A-Z_]+=\S*", word)]
    program = words[0] if words else ""
    if program == "make":
        targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
        asked = [word for word in words[1:] if "=" not in word]
        assert asked
        assert set(asked) <= targets
    elif program == "curl":
        if not shutil.which("curl"):
            pytest.skip("curl is not installed")
        command = [word.replace(ADDRESS, place).replace('"n": 10000', '"n": 500') for word in words]
        done = subprocess.run([*command, "--silent", "--fail"], capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
    elif program == "spacte" and words[1] == "certify":
        run = spacte(*words[1:], "--n", "500", "--base-url", place)
        assert run.status in (0, 3), run.err
    else:
        assert program in ("spacte", *OTHERS), "this test does not know the program"
    if program == "spacte" and words[1] != "certify":
        command = words[1] if words[1] not in ("jobs", "keys", "bench") else f"{words[1]} {words[2]}"
        reference = (ROOT / "docs" / GENERATED).read_text()
        section = re.search(
            rf"^## `spacte {re.escape(command)}`\n(.*?)(?=^## |\Z)", reference, re.MULTILINE | re.DOTALL
        )
        assert section, f"there is no spacte {command}"
        for option in (word for word in words if word.startswith("--")):
            assert re.search(rf"{re.escape(option.split('=')[0])}\b", section[1]), option
