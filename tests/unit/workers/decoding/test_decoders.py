"""Promises of the decoding processes: the same pixels, and a file that is too much for one costs itself alone."""

import io
import struct
import time
import zlib
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from tests.odd_pictures import PICTURES, colour, raw_png, saved

from spacte_core.preprocessing import EVERYTHING, Asked
from spacte_workers.decoding import Decoders, decoders
from spacte_workers.images import BadImageError, decode_image
from spacte_workers.shards import Image

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[4]
GOOD = PICTURES["RGB"]
SHAPE = (3, 8, 8)


@pytest.fixture(scope="module")
def real() -> Iterator[Decoders]:
    """One decoding process."""
    pool = Decoders()
    yield pool
    pool.close()


@pytest.fixture
def faulty(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Decoders]:
    """Two processes with little memory and time, which fail where a file says so."""
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    monkeypatch.setenv("SPACTE_API_KEYS", "a secret")
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr(decoders, "IMAGE_S", 1.0)
    pool = Decoders(2, 64 << 20, tasks="tests.faulty_tasks")
    yield pool
    pool.close()


def found(decode, data: bytes, asked: Asked) -> object:
    try:
        image: Image = decode(data, input_shape=SHAPE, asked=asked)
    except BadImageError as error:
        return str(error)
    return image, image.steps


@pytest.mark.parametrize("kind", PICTURES)
@pytest.mark.parametrize("asked", [Asked(), EVERYTHING], ids=["plain", "everything"])
def test_pixels_steps_and_sentences_are_those_of_this_process(real: Decoders, kind: str, asked: Asked) -> None:
    assert found(real.image, PICTURES[kind], asked) == found(decode_image, PICTURES[kind], asked)


@pytest.mark.parametrize("dtype", [np.uint8, np.float32])
def test_arrays_too(real: Decoders, dtype: type) -> None:
    file = io.BytesIO()
    np.save(file, (np.random.default_rng(0).random(SHAPE) * (255 if dtype == np.uint8 else 0.9)).astype(dtype))
    assert found(real.image, file.getvalue(), Asked()) == found(decode_image, file.getvalue(), Asked())


@pytest.mark.parametrize(
    ("fault", "words", "lost"),
    [
        ("abort", "cannot be decoded within 1 s and 64 MiB", 1),
        ("exit", "cannot be decoded within", 1),
        ("jump", "cannot be decoded within", 1),
        ("sleep", "cannot be decoded within", 1),
        ("loop", "cannot be decoded within", 1),
        ("allocate", "needs more memory", 0),
        ("raise", "is damaged", 0),
        ("connect", "is damaged", 0),
        ("run", "is damaged", 0),
        ("lie", "is damaged", 0),
    ],
)
def test_a_fault_is_the_files_own(faulty: Decoders, fault: str, words: str, lost: int) -> None:
    faulty.image(GOOD, input_shape=SHAPE)
    with pytest.raises(BadImageError, match=words):
        faulty.image(fault.encode(), input_shape=SHAPE)
    assert faulty.lost == lost
    assert faulty.image(GOOD, input_shape=SHAPE) == decode_image(GOOD, input_shape=SHAPE)


@pytest.mark.slow
def test_neighbours_do_not_notice(faulty: Decoders) -> None:
    """While one process dies again and again, the other one answers every good image, and never late."""

    def honest() -> float:
        began = time.monotonic()
        assert faulty.image(GOOD, input_shape=SHAPE) == decode_image(GOOD, input_shape=SHAPE)
        return time.monotonic() - began

    def hostile() -> None:
        for fault in (b"abort", b"sleep", b"abort"):
            with pytest.raises(BadImageError):
                faulty.image(fault, input_shape=SHAPE)

    honest()
    with ThreadPoolExecutor(1) as thread:
        attack = thread.submit(hostile)
        times = []
        while not attack.done():
            times.append(honest())
        attack.result()
    assert len(times) > 20
    assert faulty.lost == 3
    assert sorted(times)[len(times) // 2] < 0.1


def test_secrets_stay_with_the_parent(faulty: Decoders, tmp_path: Path) -> None:
    with pytest.raises(BadImageError):
        faulty.image(b"environment", input_shape=SHAPE)
    assert "PYTHONPATH" in (tmp_path / "seen").read_text()
    assert "SPACTE_API_KEYS" not in (tmp_path / "seen").read_text()


def test_a_picture_beyond_the_memory_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """4,000 x 4,000 pixels that are transparent: 64 MB, and as much again for each step."""
    side = 4_000
    row = b"\0" + bytes(4 * side)
    header = struct.pack(">IIBBBBB", side, side, 8, 6, 0, 0, 0)
    parts = [(b"IHDR", header), (b"IDAT", zlib.compress(row * side, 1)), (b"IEND", b"")]
    chunks = (
        struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body)) for name, body in parts
    )
    picture = b"\x89PNG\r\n\x1a\n" + b"".join(chunks)
    small, enough = Decoders(1, 96 << 20), Decoders(1, 512 << 20)
    try:
        with pytest.raises(BadImageError, match="needs more memory"):
            small.image(picture, input_shape=SHAPE, asked=EVERYTHING)
        assert enough.image(picture, input_shape=SHAPE, asked=EVERYTHING).data == b"\xff" * 192
        assert (small.lost, enough.lost) == (0, 0)
        assert small.image(GOOD, input_shape=SHAPE) == decode_image(GOOD, input_shape=SHAPE)
    finally:
        small.close()
        enough.close()


@pytest.mark.parametrize(
    "data",
    [
        raw_png(np.zeros((8, 8, 1), int), 8, 0)[:-12] + b"\0\0\0\0iCCP" + struct.pack(">I", zlib.crc32(b"iCCP")),
        saved(colour().quantize(16), transparency=bytes(768)),
    ],
    ids=["iCCP", "tRNS"],
)
def test_what_the_library_raises_is_the_pictures_fault(real: Decoders, data: bytes) -> None:
    """Pillow has no error for these two: an IndexError at load, a ValueError in convert."""
    with pytest.raises(BadImageError):
        real.image(data, input_shape=SHAPE)
    assert real.lost == 0


def test_after_closing_nobody_waits_for_ever() -> None:
    """A gateway's application may still be asked after its lifespan, as test clients do."""
    pool = Decoders()
    for _ in range(2):
        pool.close()
        assert pool.image(GOOD, input_shape=SHAPE).shape == SHAPE
    assert pool._free.get_nowait() is None


def test_a_process_that_cannot_be_started_costs_no_place(monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(*_: object) -> None:
        raise OSError("no more processes")

    pool = Decoders()
    with monkeypatch.context() as crowded:
        crowded.setattr("spacte_workers.decoding.decoders.DecodingProcess", refused)
        for _ in range(2):
            with pytest.raises(OSError, match="no more processes"):
                pool.image(GOOD, input_shape=SHAPE)
    assert pool.image(GOOD, input_shape=SHAPE).shape == SHAPE
    pool.close()
