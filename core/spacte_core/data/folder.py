"""`folder:PATH`: one folder a class, images of one size, held in memory.

PATH/train/cat/1.png   PATH/test/cat/7.png     with splits of its own ("val" and "valid" are read as test)
PATH/cat/1.png                                 without: every tenth image of each class, by name, is held out
"""

from pathlib import Path

from spacte_core.errors import DataError

from .base import DataConfig, Split
from .decode import ImageCollector
from .memory import MemoryData

EXTENSIONS = {".png", ".jpg", ".jpeg", ".webp", ".bmp", ".gif", ".ppm", ".pgm", ".tif", ".tiff"}
TEST_FOLDERS = ("test", "val", "valid", "validation")


def split_folder(path: Path, split: Split) -> Path | None:
    """The folder of a split, or None where PATH has no splits of its own."""
    if not path.is_dir():
        raise DataError(f"There is no folder {path}: check the path after the colon.")
    if not (path / "train").is_dir():
        return None
    if split == "train":
        return path / "train"
    for name in TEST_FOLDERS:
        if (path / name).is_dir():
            return path / name
    raise DataError(f"{path} has a train folder but no test or val folder: add one with the same classes.")


def class_files(path: Path) -> dict[str, list[Path]]:
    """The image files of each class folder, both by name; raises DataError for an empty class."""
    folders = sorted(entry for entry in path.iterdir() if entry.is_dir() and not _is_hidden(entry.name))
    if not folders:
        raise DataError(f"{path} has no class folders: put the images of each class into a folder of its own.")
    found = {}
    for folder in folders:
        files = sorted(
            entry
            for entry in folder.rglob("*")
            if entry.suffix.lower() in EXTENSIONS and not any(map(_is_hidden, entry.relative_to(folder).parts))
        )
        if not files:
            raise DataError(f"Class folder {folder} has no image: add some or remove the folder.")
        found[folder.name] = files
    return found


def _is_hidden(name: str) -> bool:
    """What notebooks, archivers and editors leave beside the images: `.ipynb_checkpoints`, `__MACOSX`, `._1.png`."""
    return name.startswith(".") or name in ("__MACOSX", "__pycache__")


def class_names_of(path: Path) -> list[str]:
    """The classes of a set: the class folders of its training split, or of PATH where it has no splits."""
    return list(class_files(split_folder(path, "train") or path))


def load(config: DataConfig, split: Split) -> MemoryData:
    """One split of the folder, decoded."""
    own = split_folder(config.path, split)
    data = _read(config, own or config.path, class_names_of(config.path))
    return data.part(split) if own is None else data


def _read(config: DataConfig, path: Path, class_names: list[str]) -> MemoryData:
    collector = ImageCollector(config, str(path))
    for name, files in class_files(path).items():
        if name not in class_names:
            raise DataError(f"{path} has a class {name!r} that the training split lacks: add it there too.")
        for file in files:
            try:
                data = file.read_bytes()
            except OSError:
                collector.skipped.append(str(file.relative_to(path)))
            else:
                collector.add(str(file.relative_to(path)), data, class_names.index(name))
    return collector.finish(class_names)
