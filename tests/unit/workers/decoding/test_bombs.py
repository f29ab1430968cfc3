"""Promise: small files that stand for much are refused or read, in time and within the memory of their process."""

import io
import struct
import time
import zipfile
import zlib
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image as Pillow
from tests.odd_pictures import colour, raw_png, saved

from spacte_core.preprocessing import EVERYTHING
from spacte_workers.batch.inputs import InputError, InputSpec
from spacte_workers.decoding import Decoders, open_isolated
from spacte_workers.images import BadImageError

pytestmark = pytest.mark.slow

SHAPE = (3, 8, 8)
MEMORY = 256 << 20
SECONDS = 10  # chosen: ten times what they take on a machine of its own
MIB = 1 << 20


@pytest.fixture(scope="module")
def decoders() -> Iterator[Decoders]:
    """One process."""
    pool = Decoders(memory_bytes=MEMORY)
    yield pool
    pool.close()


def with_text(megabytes: int) -> bytes:
    """A PNG with a compressed text of so many megabytes."""
    return raw_png(np.zeros((8, 8, 3), int), 8, 2, zTXt=b"a\0\0" + zlib.compress(bytes(megabytes * MIB)))


def with_profile(megabytes: int) -> bytes:
    """A PNG with a colour profile of so many megabytes."""
    return raw_png(np.zeros((8, 8, 3), int), 8, 2, iCCP=b"a\0\0" + zlib.compress(bytes(megabytes * MIB)))


def claiming(side: int) -> bytes:
    """A PNG of a few bytes that says how large it is."""
    png = bytearray(raw_png(np.zeros((1, 1, 1), int), 8, 0))
    struct.pack_into(">II", png, 16, side, side)
    struct.pack_into(">I", png, 29, zlib.crc32(png[12:29]))
    return bytes(png)


def frames(kind: str, count: int) -> bytes:
    """An animation."""
    others = [Pillow.new("RGB", (8, 8), (number % 256, number // 256, 7)) for number in range(count - 1)]
    return saved(colour(), kind, save_all=True, append_images=others)


def npy_of(shape: str) -> bytes:
    """An npy file whose header says another shape than it holds."""
    text = f"{{'descr': '|u1', 'fortran_order': False, 'shape': {shape}, }}".ljust(117) + "\n"
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(text)) + text.encode() + bytes(192)


PICTURES: dict[str, Callable[[], bytes]] = {
    "text of 200 MB": lambda: with_text(200),
    "profile of 200 MB": lambda: with_profile(200),
    "PNG of 60,000 x 60,000": lambda: claiming(60_000),
    "PNG of 4,000 x 4,000 without pixels": lambda: claiming(4_000),
    "GIF of 2,000 frames": lambda: frames("GIF", 2_000),
    "TIFF of 2,000 frames": lambda: frames("TIFF", 2_000),
    "PNG of 500 frames": lambda: frames("PNG", 500),
    "npy of a terabyte": lambda: npy_of("(3, 1000000, 1000000)"),
    "npy of 40 axes": lambda: npy_of("(" + "1," * 40 + ")"),
}


@pytest.mark.parametrize("kind", PICTURES)
def test_pictures(decoders: Decoders, kind: str) -> None:
    data = PICTURES[kind]()
    began = time.monotonic()
    said = "."
    try:
        decoders.image(data, input_shape=SHAPE, asked=EVERYTHING)
    except BadImageError as error:
        said = str(error)
    assert said.endswith(".")
    assert time.monotonic() - began < SECONDS
    assert decoders.lost == 0


def overlapping() -> bytes:
    """A zip whose thousand members are all the same bytes."""
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
        for number in range(1_000):
            archive.writestr(f"{number:04}.png", bytes(60 * MIB) if number == 0 else b"x")
    raw = bytearray(file.getvalue())
    first = at = raw.index(b"PK\x01\x02")
    while (at := raw.find(b"PK\x01\x02", at + 1)) > 0:
        raw[at + 16 : at + 28], raw[at + 42 : at + 46] = raw[first + 16 : first + 28], bytes(4)
    return bytes(raw)


def nested() -> bytes:
    """Zips in a zip."""
    data = bytes(10 * MIB)
    for depth in range(6):
        file = io.BytesIO()
        with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
            for copy in range(3):
                archive.writestr(f"{depth}{copy}.zip", data)
        data = file.getvalue()
    return data


def members(count: int) -> bytes:
    """A zip of empty members, none of which is an image."""
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        for number in range(count):
            archive.writestr(f"{number}", b"")
    return file.getvalue()


def npz_of(shape: str) -> bytes:
    """An npz whose array is smaller than its header says."""
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("images.npy", npy_of(shape))
    return file.getvalue()


def parquet(**columns: object) -> bytes:
    """A parquet file, well packed."""
    file = io.BytesIO()
    pq.write_table(pa.table(columns), file, compression="zstd", store_schema=False)
    return file.getvalue()


def many(value: object, times: int) -> pa.DictionaryArray:
    """A column of one value, which the file has once."""
    return pa.DictionaryArray.from_arrays(np.zeros(times, np.int32), pa.array([value]))


INPUTS: dict[str, Callable[[], bytes]] = {
    "overlapping zip": overlapping,
    "nested zip": nested,
    "zip of 100,000 empty members": lambda: members(100_000),
    "npz of a terabyte": lambda: npz_of("(1000000000, 3, 8, 8)"),
    "parquet of 64 x 8 MB": lambda: parquet(image=many(bytes(8 * MIB), 64)),
    "parquet of 10,000,001 rows": lambda: parquet(image=many(b"x", 10_000_001)),
    "parquet of 2 GB of ids": lambda: parquet(image=[b"x"] * 2_000, custom_id=many("i" * MIB, 2_000)),
    "parquet of 5 GB of labels": lambda: parquet(image=[b"x"] * 5_000, label=many("l" * MIB, 5_000)),
}


@pytest.mark.slow
@pytest.mark.parametrize("kind", INPUTS)
def test_inputs(decoders: Decoders, kind: str, tmp_path: Path) -> None:
    path = tmp_path / "input"
    path.write_bytes(INPUTS[kind]())
    began = time.monotonic()
    said = ["."]
    try:
        with closing(open_isolated(InputSpec("file", str(path)), SHAPE, decoders, class_names=["a"])) as source:
            for index in source.indices[:3]:
                try:
                    source.read(index)
                except BadImageError as error:
                    said.append(str(error))
    except InputError as error:
        said.append(str(error))
    assert all(each.endswith(".") for each in said)
    assert time.monotonic() - began < SECONDS
    # Some libraries end their process where memory fails them: the next file does not notice.
    assert decoders.image(saved(colour()), input_shape=SHAPE).shape == SHAPE
