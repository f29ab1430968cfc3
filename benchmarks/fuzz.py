"""Damaged pictures, arrays and inputs of jobs, in the processes that decode what strangers send.

    python -m benchmarks.fuzz [--inputs 500000] [--seed 20] [--out FILE]

Each is a good file with a few of the usual injuries; checksums are mended in half of them, so that the damage gets
behind them. What is not refused with one sentence, a process that dies, and memory that grows end with exit code 1.
"""

import argparse
import io
import json
import random
import struct
import sys
import tempfile
import time
import zipfile
import zlib
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image as Pillow

from spacte_core.preprocessing import EVERYTHING, Asked
from spacte_workers.batch.inputs import InputError, InputSpec
from spacte_workers.batch.inputs.pixels import row_pixels
from spacte_workers.decoding import Decoders, open_isolated
from spacte_workers.images import BadImageError

SHAPE = (3, 8, 8)
PROCESSES = 2
BATCH = 500  # inputs of one thread before it makes the next
PICTURES_A_FILE = 9  # an input of a job takes twenty times as long as a picture
GROWTH_BYTES = 32 << 20
"""How much larger the processes may be at the end than after a fifth. Chosen: arenas settle within this."""

_PNG_START = 8
_NUMBERS = (b"\xff\xff\xff\xff", b"\x7f\xff\xff\xff", b"\0\0\0\0", b"\0\0\0\x80", b"\1\0\0\0")


def mutated(data: bytes, chance: random.Random, others: list[bytes]) -> bytes:
    """`data` with a few of the usual injuries."""
    out = bytearray(data)
    for _ in range(chance.choice((0, 1, 1, 2, 4, 16))):
        at = chance.randrange(len(out) + 1)
        match chance.randrange(7):
            case 0 if out:
                out[min(at, len(out) - 1)] ^= 1 << chance.randrange(8)
            case 1:
                del out[at:]
            case 2:
                out[at:at] = chance.randbytes(chance.randrange(1, 9))
            case 3:
                out[at : at + 4] = chance.choice(_NUMBERS)
            case 4:
                del out[at : at + chance.randrange(1, 64)]
            case 5:
                other = chance.choice(others)
                out[at:] = other[chance.randrange(len(other)) :]
            case _:
                out[at:at] = out[at : at + 32] * chance.randrange(1, 4)
    return bytes(out)


def with_checksums(data: bytes) -> bytes:
    """A PNG whose chunks have the checksums of what they hold, as far as chunks can be told."""
    if not data.startswith(b"\x89PNG"):
        return data
    out, at = bytearray(data), _PNG_START
    while at + 12 <= len(out):
        (length,) = struct.unpack_from(">I", out, at)
        end = at + 8 + length
        if end + 4 > len(out):
            break
        struct.pack_into(">I", out, end, zlib.crc32(out[at + 4 : end]))
        at = end + 4
    return bytes(out)


def pictures() -> dict[str, list[bytes]]:
    """Good files of every kind, some of which are read and the others refused by their first bytes."""
    pixels = np.random.default_rng(0).integers(0, 256, (12, 10, 3)).astype(np.uint8)
    colour = Pillow.fromarray(pixels)
    exif = Pillow.Exif()
    exif[0x0112] = 6
    made: dict[str, list[bytes]] = {}

    def add(kind: str, image: Pillow.Image, **options: Any) -> None:
        file = io.BytesIO()
        image.save(file, kind, **options)
        made.setdefault(kind, []).append(file.getvalue())

    for mode in ("L", "RGB", "P", "LA", "RGBA", "1", "I;16"):
        source = colour.convert("L") if mode == "I;16" else colour
        add("PNG", source.convert(mode), exif=exif)
    add("PNG", colour.quantize(16), transparency=bytes(range(16)))
    add("PNG", colour, save_all=True, append_images=[colour.rotate(90)])
    for options in ({}, {"progressive": True}, {"quality": 100, "subsampling": 0}, {"exif": exif}):
        add("JPEG", colour, **options)
    add("JPEG", colour.convert("CMYK"))
    for options in ({}, {"lossless": True}, {"exif": exif}, {"save_all": True, "append_images": [colour.rotate(90)]}):
        add("WEBP", colour, **options)
    add("WEBP", colour.convert("RGBA"))
    for options in ({}, {"compression": "tiff_lzw"}, {"compression": "jpeg"}):
        add("TIFF", colour, **options)
    add("GIF", colour.quantize(16))
    add("GIF", colour, save_all=True, append_images=[colour.rotate(90)])
    add("BMP", colour)
    add("BMP", colour.convert("1"))
    add("PPM", colour)
    made["npy"] = [npy(array) for array in arrays()]
    return made


def arrays() -> list[Any]:
    """Arrays of every layout that is read, and some that are not."""
    pixels = np.random.default_rng(1).integers(0, 256, SHAPE).astype(np.uint8)
    unit = (pixels / 255).astype(np.float32)
    return [pixels, unit, unit.astype(np.float64), unit.astype(np.float16), np.asfortranarray(pixels), pixels[0]]


def npy(array: Any) -> bytes:
    """As an npy file."""
    file = io.BytesIO()
    np.save(file, array)
    return file.getvalue()


def damaged_zip(members: dict[str, bytes], chance: random.Random, others: list[bytes]) -> bytes:
    """A zip with damage in a member, or outside."""
    file = io.BytesIO()
    inside = chance.random() < 0.5
    hurt = chance.choice(list(members))
    with zipfile.ZipFile(file, "w", chance.choice((zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED))) as archive:
        for name, data in members.items():
            archive.writestr(name, mutated(data, chance, others) if inside and name == hurt else data)
    return file.getvalue() if inside else mutated(file.getvalue(), chance, others)


def inputs() -> dict[str, Callable[[random.Random, list[bytes]], bytes]]:
    """Makers of damaged files of each kind of input."""
    good = pictures()
    rows = np.random.default_rng(2).integers(0, 256, (3, *SHAPE)).astype(np.uint8)
    npz = {"images.npy": npy(rows), "labels.npy": npy(np.arange(3))}
    images = {"a.png": good["PNG"][1], "b.npy": good["npy"][0], "labels.csv": b"name,label\na.png,1\nb.npy,2\n"}
    tables: list[bytes] = []
    for compression in ("none", "snappy", "zstd"):
        file = io.BytesIO()
        column = [{"bytes": data, "path": None} for data in good["PNG"][:3]]
        table = pa.table({"image": column, "label": [0, 1, None], "custom_id": ["a", "b", "c"]})
        pq.write_table(table, file, compression=compression, row_group_size=2)
        tables.append(file.getvalue())
    return {
        "npz": lambda chance, others: damaged_zip(npz, chance, others),
        "zip": lambda chance, others: damaged_zip(images, chance, others),
        "parquet": lambda chance, others: mutated(chance.choice(tables), chance, others),
    }


@dataclass
class Findings:
    """What became of the inputs: by kind how many were taken and how many refused."""

    taken: Counter[str] = field(default_factory=Counter)
    refused: Counter[str] = field(default_factory=Counter)

    def add(self, other: "Findings") -> None:
        """Count those of another part."""
        self.taken.update(other.taken)
        self.refused.update(other.refused)


class Fuzzer:
    """Decodes damaged files; what is neither taken nor refused with a sentence is raised."""

    def __init__(self, seed: int, folder: Path) -> None:
        self.pictures = Decoders(PROCESSES)
        self.inputs = Decoders(PROCESSES)
        self._seed, self._folder = seed, folder
        self._good, self._makers = pictures(), inputs()
        self._all = [data for files in self._good.values() for data in files]

    def batch(self, number: int) -> Findings:
        """One batch; the same number makes the same files."""
        chance = random.Random(f"{self._seed} {number}")
        found = Findings()
        for at in range(BATCH):
            if at % (PICTURES_A_FILE + 1):
                kind = chance.choice(list(self._good))
                sentence = self._picture(chance.choice(self._good[kind]), chance)
            else:
                kind = chance.choice(list(self._makers))
                sentence = self._input(self._makers[kind](chance, self._all), number, chance)
            if sentence is None:
                found.taken[kind] += 1
            elif not sentence.endswith(".") or "\n" in sentence:
                raise AssertionError(f"{kind} is refused with {sentence!r}, which is no sentence")
            else:
                found.refused[kind] += 1
        return found

    def memory(self) -> int:
        """Bytes that all processes take."""
        return sum(_resident(pool) for pool in (self.pictures, self.inputs))

    def close(self) -> None:
        """End the processes."""
        self.pictures.close()
        self.inputs.close()

    def _picture(self, data: bytes, chance: random.Random) -> str | None:
        data = mutated(data, chance, self._all)
        data = with_checksums(data) if chance.random() < 0.5 else data
        try:
            self.pictures.image(data, input_shape=SHAPE, asked=chance.choice((EVERYTHING, Asked())))
        except BadImageError as error:
            return str(error)
        return None

    def _input(self, data: bytes, number: int, chance: random.Random) -> str | None:
        path = self._folder / f"{number}"
        path.write_bytes(data)
        spec, last = InputSpec("file", str(path), limit=4), None
        try:
            with closing(open_isolated(spec, SHAPE, self.inputs, class_names="abc")) as source:
                for index in source.indices:
                    try:
                        row = source.read(index)
                        if not isinstance(row.content, bytes):
                            row_pixels(row, spec, input_shape=SHAPE, stated=None)
                        elif chance.random() < 0.5:
                            self.pictures.image(row.content, input_shape=SHAPE, asked=EVERYTHING)
                    except BadImageError as error:
                        source.about(index)
                        last = str(error)
        except InputError as error:
            return str(error)
        return last


def _resident(pool: Decoders) -> int:
    processes = [pool.take() for _ in range(PROCESSES)]
    for process in processes:
        pool.give_back(process)
    return sum(int(Path(f"/proc/{process.pid}/statm").read_text().split()[1]) * 4096 for process in processes)


def run(total: int, seed: int) -> dict[str, Any]:
    """Decode so many inputs, and tell what became of them."""
    found, batches = Findings(), max(1, total // BATCH)
    began = time.perf_counter()
    with tempfile.TemporaryDirectory() as folder, closing(Fuzzer(seed, Path(folder))) as fuzzer:
        fifth = 0
        with ThreadPoolExecutor(PROCESSES) as threads:
            for part, numbers in enumerate((range(batches // 5), range(batches // 5, batches))):
                for each in threads.map(fuzzer.batch, numbers):
                    found.add(each)
                fifth = fuzzer.memory() if part == 0 else fifth
        return {
            "inputs": found.taken.total() + found.refused.total(),
            "seed": seed,
            "seconds": round(time.perf_counter() - began, 1),
            "taken": dict(sorted(found.taken.items())),
            "refused": dict(sorted(found.refused.items())),
            "processes_lost": fuzzer.pictures.lost + fuzzer.inputs.lost,
            "memory_after_a_fifth": fifth,
            "memory_at_the_end": fuzzer.memory(),
        }


def main() -> int:
    """Run as the command line says."""
    parser = argparse.ArgumentParser(description="Decode damaged files.")
    parser.add_argument("--inputs", type=int, default=50_000)
    parser.add_argument("--seed", type=int, default=20)
    parser.add_argument("--out", type=Path, help="file for the figures, as JSON")
    options = parser.parse_args()
    figures = run(options.inputs, options.seed)
    text = json.dumps(figures, indent=2)
    print(text)
    if options.out:
        options.out.write_text(text + "\n")
    grown = figures["memory_at_the_end"] - figures["memory_after_a_fifth"]
    return 1 if figures["processes_lost"] or grown > GROWTH_BYTES else 0


if __name__ == "__main__":
    sys.exit(main())
