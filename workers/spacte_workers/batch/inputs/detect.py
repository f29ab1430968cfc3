"""What a file is, told from its bytes and not from its name."""

import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

from spacte_core.hidden_names import is_hidden

Kind = Literal["npz", "zip", "parquet", "image"]

_PICTURES = (b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff", b"\x93NUMPY")


def kind_of(path: Path) -> Kind | None:
    """`npz`, `zip` (of images), `parquet`, `image`, or None for anything else."""
    with path.open("rb") as file:
        head = file.read(12)
    if head.startswith(b"PAR1"):
        return "parquet"
    if head.startswith(_PICTURES) or (head[:4] == b"RIFF" and head[8:12] == b"WEBP"):
        return "image"
    if head.startswith((b"PK\x03\x04", b"PK\x05\x06")):
        try:
            with zipfile.ZipFile(path) as archive:
                names = archive.namelist()
        except (zipfile.BadZipFile, OSError, ValueError, NotImplementedError):
            return "zip"  # the reader says what is wrong with it
        return "npz" if _are_arrays([name for name in names if not is_hidden(name)]) else "zip"
    return None


def _are_arrays(names: Sequence[str]) -> bool:
    """Whether the members can be arrays of numpy.savez, which lie at the top, or `images.npy` packed by hand."""
    if any(name.rpartition("/")[2] == "images.npy" for name in names):
        return True
    return bool(names) and all(name.endswith(".npy") and "/" not in name for name in names)
