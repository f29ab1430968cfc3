"""Promise: a model that another gateway serves is certified over the network, with the very votes that it has here."""

import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx2
import numpy as np
import pytest
from PIL import Image

from spacte_client.types import Certificate
from spacte_workers import LocalCertifier
from spacte_workers.certification.verify import replay
from spacte_workers.images import from_array

SPACTE = Path(sys.executable).with_name("spacte")
PIXELS = np.random.default_rng(0).integers(0, 256, (1, 8, 8), dtype=np.uint8)

pytestmark = [pytest.mark.slow, pytest.mark.long, pytest.mark.timeout(900)]


@contextmanager
def gateway(models: Path, data: Path) -> Iterator[str]:
    """The address of one that serves a folder."""
    command = [SPACTE, "serve", "--in-process", "--models", models, "--port", "0", "--log-level", "warning"]
    command += ["--precision", "fp32", "--data-dir", data]
    with subprocess.Popen([str(part) for part in command], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        try:
            yield process.stdout.readline().split()[-1].rstrip("/.")
        finally:
            process.kill()


def spacte(*arguments: Any, code: int | tuple[int, ...] = 0) -> subprocess.CompletedProcess[str]:
    ran = subprocess.run([str(part) for part in (SPACTE, *arguments)], capture_output=True, text=True, check=False)
    assert ran.returncode in (code if isinstance(code, tuple) else (code,)), ran.stderr + ran.stdout
    return ran


@pytest.fixture
def folders(tmp_path: Path, make_checkpoint: Callable[..., str], monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    make_checkpoint(tmp_path / "there" / "digits")
    make_checkpoint(tmp_path / "other", seed=1)
    Image.fromarray(PIXELS[0]).save(tmp_path / "x.png")
    return tmp_path


def imported(folder: Path, address: str) -> Path:
    """A checkpoint of the model that a gateway serves, asked a few times only where it fails."""
    (folder / "there.toml").write_text(f'[endpoint]\nurl = "{address}/v2/models/digits/versions/base"\nretries = 1\n')
    spacte("import", folder / "there.toml", "--sigma", "0.25", "--out", folder / "here" / "remote")
    return folder / "here" / "remote"


def test_a_model_of_a_second_gateway(folders: Path) -> None:
    with gateway(folders / "there", folders / "data1") as there:
        remote = imported(folders, there)
        with gateway(remote, folders / "data2") as here:
            asked = ["certify", folders / "x.png", "--n", "500", "--json", "--base-url", here]
            answer = Certificate.model_validate_json(spacte(*asked, code=(0, 3)).stdout)
            assert answer.remote is not None
            assert answer.remote.url == f"{there}/v2/models/digits/versions/base"
            (folders / "cert.json").write_text(answer.model_dump_json())
            checked = spacte(
                "verify", folders / "cert.json", "--replay", remote, "--image", folders / "x.png", "--device", "cpu"
            )
            assert "trusted" in " ".join((checked.stdout + checked.stderr).split())
            image = from_array(PIXELS, input_shape=PIXELS.shape)
            engine = LocalCertifier(folders / "there" / "digits", precision="fp32", device="cpu").engine
            assert replay(answer, engine, image) == [], "the same votes, bit for bit"
            assert max(answer.counts) < 500, "the votes are of several classes, or equality says little"

            spacte(
                "certify-dataset", remote, "--data", "digits", "--limit", "3", "--n", "100", "--out", folders / "job"
            )
            lines = (folders / "job" / "results.ndjson").read_text().splitlines()
            assert [json.loads(line)["remote"]["protocol"] for line in lines] == ["v2"] * 3

            (folders / "there" / "digits" / "config.json").write_bytes((folders / "other" / "config.json").read_bytes())
            weights = (folders / "other" / "model.safetensors").read_bytes()
            (folders / "there" / "digits" / "model.safetensors").write_bytes(weights)
            httpx2.post(f"{there}/v1/models/digits/load", timeout=60).raise_for_status()
            deadline = 60
            while httpx2.get(f"{there}/v1/models/digits").json()["state"] != "ready" and deadline:
                deadline -= 1
            refused = spacte(*asked, code=1)
            assert "was changed" in refused.stderr + refused.stdout


def test_a_gateway_that_goes_away(folders: Path) -> None:
    with gateway(folders / "there", folders / "data1") as there:
        remote = imported(folders, there)
        with gateway(remote, folders / "data2") as here:
            asked = ["certify", folders / "x.png", "--n", "100", "--json", "--base-url", here]
            spacte(*asked, code=(0, 3))
    with gateway(remote, folders / "data3") as here:
        assert "not served" in spacte(*asked[:-1], here, code=1).stderr
