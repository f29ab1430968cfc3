"""What a file is, told from its bytes and not from its name."""

import zipfile
from pathlib import Path
from typing import Literal

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
        return "npz" if "images.npy" in names or (names and all(_is_array(name) for name in names)) else "zip"
    return None


def _is_array(name: str) -> bool:
    """Whether a member can be one of numpy.savez: those lie at the top."""
    return name.endswith(".npy") and "/" not in name
