"""The documentation says what the software does: the command reference is current, and the site builds."""

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.mark.slow
def test_the_command_reference_is_current() -> None:
    page = subprocess.run(
        [sys.executable, ROOT / "docs" / "cli_reference.py"], capture_output=True, text=True, check=True
    ).stdout
    assert (ROOT / "docs" / "cli.md").read_text() == page, (
        "write it anew: .venv/bin/python docs/cli_reference.py > docs/cli.md"
    )


@pytest.mark.slow
def test_the_site_builds_without_a_warning(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "mkdocs", "build", "--quiet", "--strict", "--site-dir", tmp_path]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "POST /v1/certify" in (tmp_path / "http" / "index.html").read_text()


def test_the_example_of_a_method_is_the_real_one() -> None:
    diff = (ROOT / "CONTRIBUTING.md").read_text().partition("```diff\n")[2].partition("\n```")[0]
    files = [part.partition("\n") for part in diff.split("+++ ") if part]
    assert len(files) == 3
    for name, _, hunk in files:
        lines = (ROOT / name).read_text().splitlines()
        added = [line[1:] for line in hunk.splitlines() if line.startswith("+")]
        assert added
        assert [line for line in added if line not in lines] == [], name
