"""Promise: the figures that the README and the model's card quote are those of the results that lie beside them."""

import subprocess
import sys
from pathlib import Path

import pytest

from spacte_core.checkpoint import read_config

ROOT = Path(__file__).parents[2]


@pytest.mark.slow
def test_the_quoted_figures_are_those_of_the_results() -> None:
    """`python -m benchmarks.readme` has been run since anything changed."""
    command = [sys.executable, "-m", "benchmarks.readme", "--check"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def test_the_results_are_of_the_model_in_the_box() -> None:
    import json

    models = json.loads((ROOT / "benchmarks/results/cifar10/figures.json").read_text())["models"]
    _, version = read_config(ROOT / "models/cifar10-fast-spacte-consistency-0.25")
    assert models[0]["version"] == version
    assert models[0]["summary"]["images"] == 500
