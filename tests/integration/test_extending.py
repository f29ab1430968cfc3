"""Promise: every line of docs/extending.md runs, in the order in which it is read."""

import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

PAGE = Path(__file__).parents[2] / "docs" / "extending.md"
SPACTE = Path(sys.executable).with_name("spacte")
BLOCK = re.compile(r"^```(python|sh)\n(.*?)^```$", re.MULTILINE | re.DOTALL)


GATEWAY = "127.0.0.1:8000"
"""In lines that ask one: they are run once it serves."""


def run(line: str, folder: Path) -> None:
    ran = subprocess.run([SPACTE, *line.split()[1:]], capture_output=True, text=True, check=False, cwd=folder)
    assert ran.returncode == 0, (line, ran.stderr)


@pytest.mark.long
@pytest.mark.timeout(900)
@pytest.mark.filterwarnings("ignore")
def test_the_page_s_lines_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    names: dict[str, Any] = {}
    asked: list[str] = []
    for language, text in BLOCK.findall(PAGE.read_text()):
        if language == "python":
            exec(text, names)
            continue
        for line in text.splitlines():
            if GATEWAY in line:
                asked.append(line)
            else:
                run(line, tmp_path)
    assert sorted(path.name for path in (tmp_path / "models").iterdir()) == [
        "convnext", "denoised", "diffused", "heads", "mine", "resnet", "stable", "tuned",
    ]  # fmt: skip
    command = [SPACTE, "serve", "--in-process", "--models", tmp_path / "models" / "tuned", "--port", "0"]
    command += ["--log-level", "warning", "--data-dir", tmp_path / "data"]
    with subprocess.Popen([str(part) for part in command], stdout=subprocess.PIPE, text=True) as gateway:
        assert gateway.stdout is not None
        address = gateway.stdout.readline().split()[-1].rstrip("/.").removeprefix("http://")
        for line in asked:
            run(line.replace(GATEWAY, address), tmp_path)
        label, counts = names["ask"](address, np.zeros((1, 8, 8), np.uint8))
        gateway.terminate()
        assert gateway.wait(40) == 0
    assert counts.sum() == 1000
    assert (tmp_path / "models" / "remote").is_dir()
    assert label in (-1, counts.argmax())
