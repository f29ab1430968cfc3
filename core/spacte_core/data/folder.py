"""`folder:PATH`: one folder a class, images of one size, held in memory.

PATH/train/cat/1.png   PATH/test/cat/7.png     with splits of its own ("val" and the like are read as test)
PATH/cat/1.png                                 without: every tenth image of each class, by name, is held out

All of it may lie in one folder more, as archives unpack.
"""

from pathlib import Path

from spacte_core.errors import DataError
from spacte_core.hidden_names import is_hidden

from .base import DataConfig, Split
from .decode import ImageCollector
from .memory import MemoryData

EXTENSIONS = {".png", ".jpg", ".jpeg", ".webp", ".bmp", ".gif", ".ppm", ".pgm", ".tif", ".tiff"}
TRAIN_FOLDERS = ("train", "training")
TEST_FOLDERS = ("test", "testing", "val", "valid", "validation")
"""In small or large letters, in the order in which they are looked for."""
SPLITS = (*TRAIN_FOLDERS, *TEST_FOLDERS)


def split_folder(path: Path, split: Split) -> Path | None:
    """The folder of a split, or None where PATH has no splits of its own."""
    if not path.is_dir():
        raise DataError(f"There is no folder {path}: check the path after the colon.")
    found = _splits(path)
    if found and split not in found:
        other = "train folder but no test or val" if split == "test" else "test folder but no train"
        raise DataError(f"{path} has a {other} folder: add one with the same classes.")
    return found.get(split)


def _splits(path: Path) -> dict[Split, Path]:
    """The folders of the splits that there are."""
    inside = {folder.name.lower(): folder for folder in _folders(unwrapped(path))}
    names: dict[Split, tuple[str, ...]] = {"train": TRAIN_FOLDERS, "test": TEST_FOLDERS}
    return {split: inside[name] for split, usual in names.items() for name in reversed(usual) if name in inside}


def unwrapped(path: Path) -> Path:
    """Where classes or splits are: PATH, or inside its only folder where that has folders of its own and no image."""
    inside = _folders(path)
    while (
        len(inside) == 1
        and inside[0].name.lower() not in SPLITS
        and (deeper := _folders(inside[0]))
        and not any(map(_is_image, inside[0].iterdir()))
    ):
        path, inside = inside[0], deeper
    return path


def _folders(path: Path) -> list[Path]:
    return sorted(entry for entry in path.iterdir() if entry.is_dir() and not is_hidden(entry.name))


def _is_image(path: Path) -> bool:
    return path.suffix.lower() in EXTENSIONS


def class_files(path: Path) -> dict[str, list[Path]]:
    """The image files of each class folder, both by name; raises DataError for an empty class."""
    folders = _folders(unwrapped(path))
    if not folders:
        raise DataError(f"{path} has no class folders: put the images of each class into a folder of its own.")
    found = {}
    for folder in folders:
        files = sorted(
            entry for entry in folder.rglob("*") if _is_image(entry) and not is_hidden(entry.relative_to(folder))
        )
        if not files:
            raise DataError(f"Class folder {folder} has no image: add some or remove the folder.")
        found[folder.name] = files
    return found


def class_names_of(path: Path) -> list[str]:
    """The classes of a set: the class folders of its training split, of its only one, or of PATH where it has none."""
    found = _splits(path)
    return list(class_files(found.get("train", found.get("test", path))))


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
