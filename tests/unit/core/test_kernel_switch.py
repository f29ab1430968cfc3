"""Promise: without kernels everything works, only slower; each of them can be switched off by its name."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch

import spacte_core
from spacte_core.errors import UserError
from spacte_core.hardware import computes_bf16
from spacte_core.kernel_switch import NAMES, VARIABLE, kernels_enabled

MAIN_JOB = """
import json, sys
from pathlib import Path
import torch
from rich.console import Console
from spacte_core.data import DataConfig, load_data
from spacte_trainer.config import override
from spacte_trainer.recipes import load_recipe
from spacte_trainer.runs import run
from spacte_workers import LocalCertifier

folder = Path(sys.argv[1])
config = override(load_recipe("digits-spacte-gaussian"), {"epochs": 2})
run(config, folder, device=torch.device("cpu"), console=Console(quiet=True))
image = load_data(DataConfig(source="digits"), "test").images_NCHW[0]
found = {}
for precision in sys.argv[2:]:
    certifier = LocalCertifier(folder, precision=precision, device="cpu", batch=64, min_agreement=0.9)
    certificate = certifier.certify(image, n0=100, n=1_000, seed="ab" * 16)
    found[precision] = (certificate.precision, sum(certificate.counts), certificate.versions["kernels"])
loaded = sorted(name for name in sys.modules if name.startswith("spacte_core.kernels"))
print(json.dumps({"certificates": found, "loaded": loaded}))
"""


@pytest.mark.parametrize(
    ("value", "expected"), [(None, True), ("on", True), ("", True), ("off", False), ("OFF", False)]
)
def test_the_kernels_as_a_whole(monkeypatch: pytest.MonkeyPatch, value: str | None, expected: bool) -> None:
    if value is None:
        monkeypatch.delenv(VARIABLE, raising=False)
    else:
        monkeypatch.setenv(VARIABLE, value)
    assert kernels_enabled() == expected
    assert [kernels_enabled(name) for name in NAMES] == [expected] * len(NAMES)


def test_single_kernels(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(VARIABLE, "-amx, -winograd")
    assert kernels_enabled()
    assert [name for name in NAMES if not kernels_enabled(name)] == ["amx", "winograd"]


@pytest.mark.parametrize("value", ["of", "amx", "-amx,-abacus", "off,-amx"])
def test_a_wrong_word_is_one_sentence(monkeypatch: pytest.MonkeyPatch, value: str) -> None:
    monkeypatch.setenv(VARIABLE, value)
    with pytest.raises(UserError, match=r"SPACTE_KERNELS does not know .*: use on, off, or names") as caught:
        kernels_enabled("amx")
    assert "\n" not in str(caught.value)


@pytest.mark.slow
@pytest.mark.parametrize("absent", [False, True])
def test_the_main_job_without_kernels(tmp_path: Path, absent: bool) -> None:
    """Train, certify in float32 and where it is there in bf16: with the kernels off, and with their folder gone."""
    environment = {**os.environ, VARIABLE: "on" if absent else "off"}
    if absent:
        copy = tmp_path / "core" / "spacte_core"
        shutil.copytree(
            Path(spacte_core.__file__).parent, copy, ignore=shutil.ignore_patterns("kernels", "__pycache__")
        )
        environment["PYTHONPATH"] = os.pathsep.join([str(copy.parent), os.environ.get("PYTHONPATH", "")])
    precisions = ["fp32", "bf16"] if computes_bf16(torch.device("cpu")) else ["fp32"]
    command = [sys.executable, "-c", MAIN_JOB, str(tmp_path / "model"), *precisions]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout.splitlines()[-1])
    assert found["loaded"] == []
    for precision in precisions:
        used, samples, kernels = found["certificates"][precision]
        assert (used, samples) == (precision, 1_000)
        assert kernels.startswith("plain/")
