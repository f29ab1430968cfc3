"""Promise: a file gives the same pixels, or the same refusal, in training, over HTTP, by SDK, by job and by library."""

import asyncio
import base64
import json
from pathlib import Path
from typing import Any

import httpx2
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from tests.odd_pictures import PICTURES, SIDE
from typer.testing import CliRunner

from spacte_client import APIError, AsyncClient
from spacte_core.checkpoint import CheckpointConfig, save_checkpoint
from spacte_core.data import DataConfig
from spacte_core.data.decode import decode
from spacte_core.models import ModelConfig, build
from spacte_core.pictures import PictureError
from spacte_service.app import create_app
from spacte_service.settings import Settings
from spacte_workers import LocalCertifier
from spacte_workers.batch.cli import certify_dataset_app
from spacte_workers.images import BadImageError, from_array, image_sha256
from spacte_workers.serving.pools import LocalPool
from spacte_workers.serving.runtime import Runtime

pytestmark = pytest.mark.slow

SHAPE = (3, SIDE, SIDE)
TRAINED = {
    "plain": DataConfig(source="folder:x"),
    "resized": DataConfig(
        source="folder:x", image_size=SIDE, channels=3, enlarge=True, convert=("orientation", "depth", "transparency")
    ),
}
"""How each network was trained; the first takes pictures as they are."""

ASKED: dict[str, dict[str, Any]] = {"plain": {}, "resized": {"resize": True, "enlarge": True}}
Answers = dict[str, str]
"""By picture: the digest of the pixels, or the sentence of the refusal."""


def in_training(config: DataConfig) -> Answers:
    found: Answers = {}
    for name, data in PICTURES.items():
        try:
            pixels = decode(data, config)
        except PictureError as error:
            found[name] = str(error)
        else:
            found[name] = image_sha256(from_array(pixels, input_shape=pixels.shape))
    return found


def by_library(checkpoint: Path, asked: dict[str, Any]) -> Answers:
    certifier = LocalCertifier(checkpoint, precision="fp32", device="cpu", batch=4)
    found: Answers = {}
    for name, data in PICTURES.items():
        try:
            found[name] = certifier.certify(data, n0=1, n=1, **asked).image_sha256
        except BadImageError as error:
            found[name] = str(error)
    return found


def by_job(checkpoint: Path, asked: dict[str, Any], folder: Path) -> Answers:
    table = pa.table({"image": [{"bytes": data} for data in PICTURES.values()]})
    pq.write_table(table, folder / f"{checkpoint.name}.parquet")
    out = folder / f"{checkpoint.name}-out"
    command = [str(checkpoint), "--data", str(folder / f"{checkpoint.name}.parquet"), "--out", str(out), "--local"]
    command += ["--n0", "1", "--n", "1", "--precision", "fp32", *(f"--{name}" for name in asked)]
    result = CliRunner().invoke(certify_dataset_app, command)
    assert result.exit_code == 0, result.output
    records = [json.loads(line) for line in (out / "results.ndjson").read_text().splitlines()]
    names = list(PICTURES)
    return {
        names[r["index"]]: r["error"]["detail"] if r["outcome"] == "errored" else r["image_sha256"] for r in records
    }


async def by_gateway(models: Path, folder: Path) -> dict[tuple[str, str], Answers]:
    """Over HTTP as JSON, and by the SDK from a file on disk, for each model."""
    runtime = Runtime(models, LocalPool(1), precision="fp32")
    await runtime.start()
    found: dict[tuple[str, str], Answers] = {}
    transport = httpx2.ASGITransport(app=create_app(Settings(), runtime))
    try:
        async with (
            httpx2.AsyncClient(transport=transport, base_url="http://testserver") as http,
            AsyncClient("http://testserver", transport=transport, max_retries=0) as client,
        ):
            for model, asked in ASKED.items():
                plain, sdk = found[model, "HTTP"], found[model, "SDK"] = {}, {}
                for name, data in PICTURES.items():
                    body = {
                        "model": model,
                        "n0": 1,
                        "n": 1,
                        "image": {"type": "base64", "data": base64.b64encode(data).decode()},
                    }
                    answer = (await http.post("/v1/certify", json=body | asked)).json()
                    plain[name] = answer.get("image_sha256") or answer["detail"]
                    file = folder / "picture"
                    file.write_bytes(data)
                    try:
                        made = await client.certify(file, model=model, n0=1, n=1, **asked)
                        sdk[name] = made.image_sha256
                    except APIError as error:
                        sdk[name] = str(error.problem.detail if error.problem else error)
    finally:
        await runtime.stop()
    return found


@pytest.fixture(scope="module")
def answers(tmp_path_factory: pytest.TempPathFactory) -> dict[tuple[str, str], Answers]:
    """What every way of asking says of every picture, by network and way."""
    folder = tmp_path_factory.mktemp("pictures")
    model = ModelConfig(arch="digits_cnn", heads=1, num_classes=10, input_shape=SHAPE)
    found: dict[tuple[str, str], Answers] = {}
    for name, config in TRAINED.items():
        described = CheckpointConfig(
            model=model,
            class_names=tuple("0123456789"),
            sigma=0.25,
            method="spacte-gaussian",
            preprocessing=config.preprocessing,
        )
        save_checkpoint(folder / "models" / name, build(model), described)
        found[name, "training"] = in_training(config)
        found[name, "library"] = by_library(folder / "models" / name, ASKED[name])
        found[name, "job"] = by_job(folder / "models" / name, ASKED[name], folder)
    return found | asyncio.run(by_gateway(folder / "models", folder))


@pytest.mark.parametrize("picture", PICTURES)
def test_the_same_pixels_or_the_same_refusal(answers: dict[tuple[str, str], Answers], picture: str) -> None:
    for model in TRAINED:
        said = {way: answers[model, way][picture] for way in ("training", "library", "job", "HTTP", "SDK")}
        if model == "plain" and "but the model expects" in said["library"]:
            said.pop("training")  # which takes sets of any one shape where none is asked for
        assert len(set(said.values())) == 1, said


def test_most_are_taken_where_everything_is_named_and_few_where_nothing_is(
    answers: dict[tuple[str, str], Answers],
) -> None:
    def taken(model: str) -> list[str]:
        return [name for name, said in answers[model, "library"].items() if not said.endswith(".")]

    refused = set(PICTURES) - set(taken("resized"))
    assert refused == {
        "F", "LAB", "I", "RGB TIFF", "P GIF", "RGB 16 bits tRNS", "grey 16 bits tRNS", "animated WebP", "animated PNG",
        "half", "text",
    }  # fmt: skip
    assert set(taken("plain")) == {
        "RGB", "P", "P opaque alpha", "RGBA opaque", "RGB tRNS of no pixel", "YCbCr", "RGB WebP", "RGB BMP", "P BMP",
        "RGB PPM", "RGB 4 PPM", "RGB interlaced", "turned 0",
    }  # fmt: skip
