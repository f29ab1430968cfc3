"""Promise: any bytes give the pixels that they mean, or one sentence that says what is wrong."""

import io
import struct
import zlib

import numpy as np
import pytest
import torch
from PIL import Image as Pillow
from PIL import ImageFile

from spacte_core.preprocessing import Asked
from spacte_workers.images import BadImageError, decode_image, from_array, image_sha256, to_array

GREY = np.arange(64, dtype=np.uint8).reshape(8, 8) * 4
RGB = np.random.default_rng(0).integers(0, 256, (8, 6, 3), dtype=np.uint8)


def encoded(values, kind="PNG", **options):
    buffer = io.BytesIO()
    picture = values if isinstance(values, Pillow.Image) else Pillow.fromarray(values)
    picture.save(buffer, kind, **options)
    return buffer.getvalue()


def npy(array, **options):
    buffer = io.BytesIO()
    np.save(buffer, array, **options)
    return buffer.getvalue()


def test_png_is_decoded_exactly():
    image = decode_image(encoded(RGB), input_shape=(3, 8, 6))
    assert (image.dtype, image.shape) == ("uint8", (3, 8, 6))
    assert np.array_equal(to_array(image), RGB.transpose(2, 0, 1))
    assert np.array_equal(to_array(decode_image(encoded(GREY), input_shape=(1, 8, 8)))[0], GREY)


@pytest.mark.parametrize("kind", ["JPEG", "WEBP"])
def test_other_picture_formats(kind):
    data = encoded(RGB, kind)
    expected = np.asarray(Pillow.open(io.BytesIO(data)).convert("RGB")).transpose(2, 0, 1)
    assert np.array_equal(to_array(decode_image(data, input_shape=(3, 8, 6))), expected)


def test_palette_opaque_alpha_and_bilevel_pictures():
    palette = Pillow.fromarray(RGB).quantize(16)
    expected = np.asarray(palette.convert("RGB")).transpose(2, 0, 1)
    assert np.array_equal(to_array(decode_image(encoded(palette), input_shape=(3, 8, 6))), expected)
    opaque = Pillow.fromarray(RGB).convert("RGBA")
    assert np.array_equal(to_array(decode_image(encoded(opaque), input_shape=(3, 8, 6))), RGB.transpose(2, 0, 1))
    bilevel = Pillow.fromarray(GREY).convert("1")
    assert set(to_array(decode_image(encoded(bilevel), input_shape=(1, 8, 8))).ravel()) == {0, 255}


def test_resize_and_channels_only_where_asked():
    data = encoded(RGB)
    assert decode_image(data, input_shape=(3, 4, 4), asked=Asked(resize=True)).shape == (3, 4, 4)
    channels = Asked(convert=("channels",))
    assert decode_image(data, input_shape=(1, 8, 6), asked=channels).shape == (1, 8, 6)
    assert decode_image(encoded(GREY), input_shape=(3, 8, 8), asked=channels).shape == (3, 8, 8)
    with pytest.raises(BadImageError, match=r"\[3, 8, 6\].*expects \[3, 4, 4\]"):
        decode_image(data, input_shape=(3, 4, 4))
    with pytest.raises(BadImageError, match=r"expects \[1, 8, 6\]"):
        decode_image(data, input_shape=(1, 8, 6))


def test_npy_files():
    pixels = RGB.transpose(2, 0, 1)
    assert decode_image(npy(pixels), input_shape=(3, 8, 6)).data == pixels.tobytes()
    assert decode_image(npy(np.asfortranarray(pixels)), input_shape=(3, 8, 6)).data == pixels.tobytes()
    assert decode_image(npy(GREY), input_shape=(1, 8, 8)).shape == (1, 8, 8)


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
def test_floats_on_the_grid_become_8_bit(dtype):
    every = np.arange(256, dtype=np.uint8).reshape(1, 16, 16)
    if dtype is np.float16:  # too coarse for the grid, exact at the ends
        every = (every > 100).astype(np.uint8) * 255
    image = from_array((every / 255).astype(dtype), input_shape=(1, 16, 16))
    assert image.dtype == "uint8"
    assert image.data == every.tobytes()


def test_floats_off_the_grid_stay_float():
    values = np.full((1, 8, 8), 0.3, dtype=np.float64)
    image = from_array(values, input_shape=(1, 8, 8))
    assert image.dtype == "float32"
    assert np.array_equal(to_array(image), values.astype(np.float32))


def test_tensors_are_arrays():
    pixels = torch.randint(0, 256, (3, 4, 5), dtype=torch.uint8)
    assert from_array(pixels, input_shape=(3, 4, 5)).data == pixels.numpy().tobytes()


def test_the_digest_names_shape_type_and_values():
    image = from_array(GREY, input_shape=(1, 8, 8))
    others = [
        from_array(GREY.reshape(1, 4, 16), input_shape=(1, 4, 16)),
        from_array(np.where(GREY == 4, 5, GREY).astype(np.uint8), input_shape=(1, 8, 8)),
        from_array(np.full((1, 8, 8), 0.3), input_shape=(1, 8, 8)),
    ]
    digests = {image_sha256(i) for i in (image, *others)}
    assert len(digests) == 4
    assert image_sha256(image) == image_sha256(decode_image(encoded(GREY), input_shape=(1, 8, 8)))


def bomb():
    """A PNG whose header says 60,000 x 60,000 pixels, in a hundred bytes."""

    def chunk(kind, body):
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    header = struct.pack(">IIBBBBB", 60_000, 60_000, 8, 0, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"")) + chunk(b"IEND", b"")


@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
def test_an_image_that_pillow_warns_of_is_refused_whatever_the_limit(monkeypatch):
    monkeypatch.setattr(Pillow, "MAX_IMAGE_PIXELS", 47)
    with pytest.raises(BadImageError, match="6 x 8 pixels, more than the 47"):
        decode_image(encoded(RGB), input_shape=(3, 8, 6), max_pixels=1_000)


def npy_with_header(shape, tail=b""):
    buffer = io.BytesIO()
    np.lib.format.write_array_header_1_0(buffer, {"descr": "|u1", "fortran_order": False, "shape": shape})
    return buffer.getvalue() + tail


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b"", "empty"),
        (b"hello, this is no image", "no image"),
        (encoded(RGB)[:60], "truncated"),
        (encoded(RGB, "JPEG")[:-40], "truncated"),
        (encoded(RGB, "GIF"), "no image"),
        (bomb(), "too large|pixels"),
        (npy(np.full((3, 8, 6), np.nan)), "NaN"),
        (npy(np.full((3, 8, 6), np.inf)), "NaN or infinite"),
        (npy(np.full((3, 8, 6), 1.5)), "1.5.*divide by 255"),
        (npy(np.full((3, 8, 6), -0.5)), "-0.5"),
        (npy(np.zeros((3, 8, 6), np.int64)), "int64"),
        (npy(np.zeros((3, 8, 6), bool)), "bool"),
        (npy(np.array([[[{}]]]), allow_pickle=True), "Python objects"),
        (npy(RGB.transpose(2, 0, 1))[:-5], "truncated"),
        (npy(RGB.transpose(2, 0, 1)) + b"x", "to spare"),
        (npy(np.zeros((2, 3, 8, 6), np.uint8)), "one image"),
        (npy(np.zeros((3, 9, 6), np.uint8)), r"\[3, 9, 6\].*\[3, 8, 6\]"),
        (npy_with_header((3, 1 << 40, 1 << 40)), "shape"),
        (b"\x93NUMPY\x01\x00\x10\x00garbage", "cannot be read"),
    ],
)
def test_bad_images_are_refused_in_one_sentence(data, words):
    with pytest.raises(BadImageError, match=words) as caught:
        decode_image(data, input_shape=(3, 8, 6))
    message = str(caught.value)
    assert message.endswith(".")
    assert "\n" not in message
    assert message.count(". ") == 0


def test_transparent_pictures_are_refused():
    alpha = np.full((8, 6), 255, np.uint8)
    alpha[0, 0] = 7
    with pytest.raises(BadImageError, match="transparent"):
        decode_image(encoded(Pillow.fromarray(np.dstack([RGB, alpha]))), input_shape=(3, 8, 6))


def test_sixteen_bit_pictures_are_refused():
    with pytest.raises(BadImageError, match="8-bit"):
        decode_image(encoded(Pillow.fromarray(GREY.astype(np.uint16) * 257)), input_shape=(1, 8, 8))


def test_the_pixel_limit_is_checked_before_decoding(monkeypatch):
    data = encoded(RGB)
    monkeypatch.setattr(ImageFile.ImageFile, "load", lambda *_: pytest.fail("pixels were decoded"))
    with pytest.raises(BadImageError, match="more than the 40"):
        decode_image(data, input_shape=(3, 8, 6), max_pixels=40)
