"""Inputs of jobs made by code: random pictures, their files, and labelled ones in files of every kind."""

import io
import zipfile
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image
from tests.odd_pictures import saved

from spacte_workers.batch.inputs import InputSpec

COLOUR = (3, 5, 4)
GREY = (1, 5, 4)


def pictures(count: int, shape: tuple[int, int, int] = COLOUR) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (count, *shape), dtype=np.uint8)


def png(image_CHW: np.ndarray) -> bytes:
    return saved(Image.fromarray(image_CHW[0] if len(image_CHW) == 1 else image_CHW.transpose(1, 2, 0)))


def npy(array: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, array)
    return buffer.getvalue()


def on_file(path: Path, **changes) -> InputSpec:
    return InputSpec("file", str(path), **changes)


def zipped(path: Path, members: dict[str, bytes], compression: int = zipfile.ZIP_STORED) -> Path:
    with zipfile.ZipFile(path, "w", compression) as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    return path


def labelled(path: Path, kind: str, labels: list[int], name: str = "label") -> InputSpec:
    """Pictures with their labels in a file of the kind, under a name without an ending."""
    images = pictures(len(labels))
    match kind:
        case "parquet":
            rows = [{"bytes": png(image)} for image in images]
            pq.write_table(pa.table({"image": rows, name: labels}), path / "set")
        case "npz":
            np.savez(path / "set.npz", images=images, **{name: np.array(labels)})
            (path / "set.npz").rename(path / "set")
        case "npy in zip" | "packed folder":
            folder = "pictures/" if kind == "packed folder" else ""
            table = f"name,{name}\n" + "".join(f"{i}.npy,{label}\n" for i, label in enumerate(labels))
            members = {f"{folder}{i}.npy": npy(image) for i, image in enumerate(images)}
            zipped(path / "set", members | {f"{folder}labels.csv": table.encode()})
        case "arrays packed by hand":
            arrays = {"images": npy(images), name: npy(np.array(labels))}
            zipped(path / "set", {f"set/{key}.npy": value for key, value in arrays.items()})
    return on_file(path / "set")
