"""Promise: idle threads of OpenMP sleep where networks are evaluated, unless the environment says otherwise."""

import os
import subprocess
import sys

import pytest

SCRIPT = """
import os, sys
import spacte_workers
print(os.environ["OMP_WAIT_POLICY"], os.environ.get("GOMP_SPINCOUNT"), "torch" in sys.modules)
"""


@pytest.mark.parametrize(
    ("given", "expected"), [({}, "passive 10000 False"), ({"OMP_WAIT_POLICY": "active"}, "active None False")]
)
def test_the_workers_say_how_threads_wait_before_pytorch_is_there(given: dict[str, str], expected: str) -> None:
    without = {name: value for name, value in os.environ.items() if not name.startswith(("OMP_WAIT", "GOMP_"))}
    command = [sys.executable, "-c", SCRIPT]
    said = subprocess.run(command, env=without | given, capture_output=True, text=True, check=True)
    assert said.stdout.strip() == expected
