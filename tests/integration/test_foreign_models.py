"""Promise: whatever model people have, it is imported, certified, served, and its certificates are drawn again."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from benchmarks.foreign_models import walk
from PIL import Image
from tests.foreign_models import NAMES, bring
from typer.testing import CliRunner

from spacte_core.checkpoint import load_checkpoint
from spacte_core.cli import import_app
from spacte_workers import LocalCertifier
from spacte_workers.cli import verify_app

SPACTE = Path(sys.executable).with_name("spacte")
TOLERANCE = 1e-4
"""Largest difference of logits, as part of the largest logit: float32's rounding in other orders of summation."""
QUICK = ("onnx:one", "hf:ViT")
"""Those that take seconds; the others run with `make test-cluster`."""

pytestmark = [pytest.mark.slow, pytest.mark.long]


def imported(name: str, folder: Path) -> Path:
    """A picture that fits the model, beside its checkpoint `m`."""
    result = CliRunner().invoke(
        import_app, [*bring(name, folder).arguments, "--sigma", "0.25", "--out", str(folder / "m")]
    )
    assert result.exit_code == 0, result.output
    _, height, width = load_checkpoint(folder / "m").config.model.input_shape
    pixels = np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(folder / "x.png")
    return folder / "x.png"


def replayed(certificate: str, folder: Path) -> None:
    (folder / "cert.json").write_text(certificate)
    arguments = [str(folder / "cert.json"), "--replay", str(folder / "m"), "--image", str(folder / "x.png")]
    result = CliRunner().invoke(verify_app, [*arguments, "--device", "cpu"])
    assert result.exit_code == 0, result.output


@pytest.mark.parametrize("name", [pytest.param(n, marks=[] if n in QUICK else [pytest.mark.large]) for n in NAMES])
def test_a_certificate_is_drawn_again_to_the_same_counts(name: str, tmp_path: Path) -> None:
    picture = imported(name, tmp_path)
    pixels = np.asarray(Image.open(picture)).transpose(2, 0, 1)
    certificate = LocalCertifier(tmp_path / "m", device="cpu").certify(pixels, n0=20, n=200)
    assert sum(certificate.counts) == 200
    kernels = certificate.versions["kernels"].partition("/")[0]
    assert kernels == "onnxruntime" if name.startswith("onnx") else kernels not in ("onnxruntime", "plain")
    replayed(certificate.model_dump_json(), tmp_path)


@pytest.mark.parametrize("name", QUICK)
def test_a_certificate_over_http_is_drawn_again(name: str, tmp_path: Path) -> None:
    """Three commands: import, serve, certify."""
    picture = imported(name, tmp_path)
    command = [SPACTE, "serve", "--in-process", "--models", tmp_path / "m", "--port", "0", "--log-level", "warning"]
    command += ["--data-dir", tmp_path / "data"]
    with subprocess.Popen([str(part) for part in command], stdout=subprocess.PIPE, text=True) as gateway:
        assert gateway.stdout is not None
        address = gateway.stdout.readline().split()[-1].rstrip("/.")
        asked = [SPACTE, "certify", picture, "--n", "200", "--n0", "20", "--json", "--base-url", address]
        answer = subprocess.run([str(part) for part in asked], capture_output=True, text=True, check=False)
        gateway.terminate()
        assert gateway.wait(40) == 0
    assert answer.returncode in (0, 3), answer.stderr
    assert json.loads(answer.stdout)["model"] == "m"
    replayed(answer.stdout, tmp_path)


@pytest.mark.large
@pytest.mark.timeout(3600)
def test_fourteen_of_fourteen(tmp_path: Path) -> None:
    """Logits are those of the source on 64 inputs, and each certificate of one gateway is drawn again."""
    walked = list(walk(NAMES, tmp_path))
    assert len(walked) == 14
    assert {one.name: one.findings for one in walked if one.findings} == {}
    assert {one.name: one.difference for one in walked if one.difference > TOLERANCE} == {}
