"""Promise: a gateway that is asked for more than it can do answers each caller rightly or says when to come back.

The crowd is `benchmarks/gateway_load.py`, in a process of its own. `SPACTE_LOAD_SECONDS` sets how long it stays: 8 s
by default; benchmarks/results/gateway_load.md has the figures of a minute.
"""

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

pytestmark = [pytest.mark.slow, pytest.mark.cluster, pytest.mark.timeout(900)]

ROOT = Path(__file__).parents[2]
SECONDS = float(os.environ.get("SPACTE_LOAD_SECONDS", "8"))
PERMITS = 32
REQUESTS = 500


@pytest.fixture(scope="module")
def load(tmp_path_factory: pytest.TempPathFactory, make_checkpoint: Callable[..., str]) -> dict[str, Any]:
    """What 200 callers, and the SDK beside them, got of a gateway with 32 permits."""
    models = tmp_path_factory.mktemp("models")
    make_checkpoint(models / "digits")
    command = [sys.executable, "-m", "benchmarks.gateway_load", "--models", models, "--json"]
    command += ["--seconds", SECONDS, "--places", PERMITS, "--callers", 200, "--n", 1_000]
    done = subprocess.run([str(part) for part in command], cwd=ROOT, capture_output=True, text=True, check=True)
    print(done.stdout)
    return json.loads(done.stdout)


def test_every_answer_is_a_true_certificate_or_a_429_that_says_when(load: dict[str, Any]) -> None:
    crowd = load["crowd"]
    assert crowd["anything_else"] == {}
    assert crowd["refused"] > 0
    assert crowd["retry_after_s"][0] >= 1
    assert crowd["certificates"] >= PERMITS
    assert load["wrong"] == []


@pytest.mark.parametrize("part", ["sdk_beside_the_crowd", "sdk_all_at_once"])
def test_the_sdk_with_its_defaults_gets_all_of_its_requests_through(load: dict[str, Any], part: str) -> None:
    assert load[part]["anything_else"] == {}
    assert load[part]["certificates"] == REQUESTS
    assert load[part]["refused"] > 0  # it did not get through at once


def test_what_the_gateway_adds_to_the_sampling(load: dict[str, Any]) -> None:
    """One caller at a time: the time of a request, less the time that the samplers computed for it."""
    assert load["overhead_ms"]["median"] < 60, "the promise is 15 ms on a machine of its own; this one is shared"
