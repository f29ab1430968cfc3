"""Promises of the images of a job: the right pixels, at the model's size, and a clear sentence otherwise."""

import io
import zipfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from spacte_service import Settings
from spacte_service.decoding import Decoding
from spacte_service.jobs.data_folder import DataFolder
from spacte_service.jobs.images import INPUTS_KEPT, JobImages
from spacte_service.problems import ProblemError
from spacte_service.store.schema import JobRow
from spacte_workers.batch.inputs import InputSpec

IMAGES_NHW = np.random.default_rng(0).integers(0, 256, (6, 8, 8), dtype=np.uint8)


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory, make_checkpoint):
    folder = tmp_path_factory.mktemp("models") / "digits"
    make_checkpoint(folder)
    return folder


@pytest.fixture
def images(tmp_path):
    decoding = Decoding(Settings())
    images = JobImages(decoding, DataFolder(tmp_path))
    yield images
    images.close()
    decoding.close()


def a_row(checkpoint: Path, location: Path | str, name: str = "job_1", **spec: object) -> JobRow:
    source = InputSpec(location=str(location), **({"kind": "file"} | spec))
    row = {"id": name, "model": "digits", "model_version": "0" * 64, "checkpoint": str(checkpoint)}
    return JobRow(**row, precision="fp32", source=source.to_json(), params={}, seed="0" * 32)


def an_npz(path: Path) -> Path:
    np.savez(path, images=IMAGES_NHW, labels=np.arange(6))
    return path


def pixels(png: bytes) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(png)))


def test_an_image_of_an_array_is_shown_to_the_pixel(images, checkpoint, tmp_path):
    row = a_row(checkpoint, an_npz(tmp_path / "six.npz"), stride=2)
    for index in (0, 2, 4):
        assert np.array_equal(pixels(images.png(row, index)), IMAGES_NHW[index])


def test_an_image_of_a_data_set_is_shown(images, checkpoint):
    row = a_row(checkpoint, "digits", kind="dataset", limit=3)
    assert pixels(images.png(row, 2)).shape == (8, 8)


def test_only_images_that_the_job_certifies_are_shown(images, checkpoint, tmp_path):
    row = a_row(checkpoint, an_npz(tmp_path / "six.npz"), stride=2)
    with pytest.raises(ProblemError, match="has no image 1") as caught:
        images.png(row, 1)
    assert caught.value.status_code == 404


def test_an_image_that_cannot_be_read_is_a_problem_of_its_own(images, checkpoint, tmp_path):
    with zipfile.ZipFile(tmp_path / "two.zip", "w") as archive:
        archive.writestr("a.png", b"no picture")
        archive.writestr("b.png", _png(IMAGES_NHW[3]))
    row = a_row(checkpoint, tmp_path / "two.zip")
    with pytest.raises(ProblemError, match="send a PNG") as caught:
        images.png(row, 0)
    assert caught.value.status_code == 400
    assert np.array_equal(pixels(images.png(row, 1)), IMAGES_NHW[3])


def test_a_picture_of_another_size_is_shown_as_the_model_sees_it(images, checkpoint, tmp_path):
    with zipfile.ZipFile(tmp_path / "one.zip", "w") as archive:
        archive.writestr("big.png", _png(np.full((32, 32, 3), 77, np.uint8)))
    assert np.array_equal(pixels(images.png(a_row(checkpoint, tmp_path / "one.zip"), 0)), np.full((8, 8), 77))


@pytest.mark.parametrize("gone", ["input", "checkpoint"])
def test_what_is_gone_is_said(images, checkpoint, tmp_path, gone):
    file = an_npz(tmp_path / "six.npz")
    row = a_row(tmp_path / "nowhere" if gone == "checkpoint" else checkpoint, file)
    if gone == "input":
        file.unlink()
    with pytest.raises(ProblemError, match="cannot be shown") as caught:
        images.png(row, 0)
    assert caught.value.status_code == 404


def test_few_inputs_stay_open(images, checkpoint, tmp_path):
    file = an_npz(tmp_path / "six.npz")
    for number in range(INPUTS_KEPT + 3):
        images.png(a_row(checkpoint, file, f"job_{number}"), 0)
    assert list(images._inputs) == [f"job_{number}" for number in range(3, INPUTS_KEPT + 3)]


def _png(pixels_HW: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(pixels_HW).save(buffer, format="PNG")
    return buffer.getvalue()
