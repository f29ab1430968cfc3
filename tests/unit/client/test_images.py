"""What callers pass as an image becomes the bytes of a file, without numpy being imported by this package."""

import array
import io
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from spacte_client import InvalidArgumentError
from spacte_client._images import encode_image
from spacte_client._npy import encode_npy
from spacte_client.types import File, FileImage

PIXELS = np.arange(3 * 4 * 5, dtype=np.uint8).reshape(3, 4, 5)


def load(data: object) -> np.ndarray:
    assert isinstance(data, bytes)
    return np.load(io.BytesIO(data), allow_pickle=False)


@pytest.mark.parametrize("dtype", ["u1", "<f2", "<f4", "<f8", ">f4", ">f8"])
@pytest.mark.parametrize("shape", [(3, 4, 5), (7,), (), (0, 3)])
def test_an_array_becomes_the_file_that_numpy_reads(dtype: str, shape: tuple[int, ...]) -> None:
    values = np.random.default_rng(0).uniform(0, 1, shape).astype(dtype)
    data = encode_npy(values)
    found = load(data)
    assert found.dtype == values.dtype
    assert found.shape == values.shape
    assert np.array_equal(found, values)
    assert (data.index(b"\n") + 1) % 64 == 0


def test_strided_and_transposed_arrays_keep_their_values() -> None:
    assert np.array_equal(load(encode_image(PIXELS.transpose(2, 0, 1))), PIXELS.transpose(2, 0, 1))
    assert np.array_equal(load(encode_image(PIXELS[:, ::2, ::-1])), PIXELS[:, ::2, ::-1])


def test_tensors_and_plain_buffers_are_arrays_too() -> None:
    assert np.array_equal(load(encode_image(torch.from_numpy(PIXELS))), PIXELS)
    assert np.array_equal(load(encode_image(memoryview(PIXELS))), PIXELS)
    assert np.array_equal(load(encode_npy(array.array("f", [0.0, 0.5]))), np.array([0, 0.5], np.float32))


@pytest.mark.parametrize("dtype", ["i8", "i1", "u2", "?", "c8"])
def test_other_element_types_are_refused_with_a_remedy(dtype: str) -> None:
    with pytest.raises(InvalidArgumentError, match="astype"):
        encode_image(np.zeros((1, 8, 8), dtype))


@pytest.mark.parametrize(
    "unreadable", [torch.zeros(2, requires_grad=True), np.array([object()]), torch.zeros(2).bfloat16()]
)
def test_what_cannot_be_read_is_refused_with_a_remedy(unreadable: object) -> None:
    with pytest.raises(InvalidArgumentError, match=r"detach|astype"):
        encode_npy(unreadable)


def test_a_picture_is_saved_without_loss() -> None:
    picture = Image.fromarray(PIXELS.transpose(1, 2, 0))
    data = encode_image(picture)
    assert isinstance(data, bytes)
    assert data.startswith(b"\x89PNG")
    assert np.array_equal(np.asarray(Image.open(io.BytesIO(data))), PIXELS.transpose(1, 2, 0))


def test_a_picture_that_png_cannot_hold_is_refused_with_a_remedy() -> None:
    with pytest.raises(InvalidArgumentError, match="convert"):
        encode_image(Image.new("CMYK", (4, 4)))


def test_paths_bytes_and_files_pass_as_they_are(tmp_path: Path) -> None:
    path = tmp_path / "x.png"
    path.write_bytes(b"abc")
    assert encode_image(path) == encode_image(str(path)) == b"abc"
    assert encode_image(b"abc") == encode_image(bytearray(b"abc")) == encode_image(memoryview(b"abc")) == b"abc"
    assert encode_image(io.BytesIO(b"abc")) == b"abc"
    with path.open("rb") as file:
        assert encode_image(file) == b"abc"


def test_an_uploaded_file_is_referred_to() -> None:
    assert encode_image(FileImage(file_id="file_1")) == FileImage(file_id="file_1")
    uploaded = File.model_validate(
        {"id": "file_2", "bytes": 3, "sha256": "0" * 64, "kind": "image", "created_at": "2026-01-01T00:00:00Z"}
    )
    assert encode_image(uploaded) == FileImage(file_id="file_2")


@pytest.mark.parametrize(
    ("wrong", "remedy"),
    [
        ("no/such/file.png", "check the path"),
        (b"", "empty"),
        (io.StringIO("text"), "mode 'rb'"),
        (3.5, "not an image"),
        (None, "not an image"),
    ],
)
def test_anything_else_is_refused_with_a_remedy(wrong: object, remedy: str) -> None:
    with pytest.raises(InvalidArgumentError, match=remedy):
        encode_image(wrong)  # type: ignore[arg-type]


def test_a_damaged_picture_that_pillow_has_not_read_yet_is_refused() -> None:
    file = io.BytesIO()
    Image.fromarray(PIXELS.transpose(1, 2, 0)).save(file, "PNG")
    damaged = bytearray(file.getvalue())
    damaged[damaged.index(b"IDAT") + 4] ^= 0xFF
    with pytest.raises(InvalidArgumentError, match="cannot be written as PNG"):
        encode_image(Image.open(io.BytesIO(damaged)))
