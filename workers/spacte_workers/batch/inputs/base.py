"""Which images are certified, what every open input offers the driver, and what may be wrong with one."""

import hashlib
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

NO_LABEL = -1
"""In an array of labels: the row has none. Hubs write it where the labels of a test set are hidden."""


class InputError(Exception):
    """The input as a whole cannot be certified; the message is one sentence that names the remedy."""


class MissingInputError(InputError):
    """There is no such file, or it is not one that may be read."""


@dataclass(frozen=True, slots=True)
class InputSpec:
    """An input and the rows of it to certify.

    Attributes:
        kind: `file` or `dataset`.
        location: the file's absolute path, or the data set as `spacte train --data` takes it.
        split: which part of a data set.
        stride: rows 0, stride, 2 stride, ...
        limit: at most so many rows.
        roots: folders that the file must still lie in when it is opened; none where that was not asked.
        data_root: where downloaded data sets are kept.
        label_column: the column, array or field of the true class; None looks for the usual names.
        sha256: what `Source.pin` gave when the job was made; None where that was not asked.
    """

    kind: Literal["file", "dataset"]
    location: str
    split: str = "test"
    stride: int = 1
    limit: int | None = None
    roots: tuple[str, ...] = ()
    data_root: str = "data"
    label_column: str | None = None
    sha256: str | None = None

    def to_json(self) -> dict[str, Any]:
        """As plain JSON."""
        return asdict(self) | {"roots": list(self.roots)}

    @classmethod
    def from_json(cls, value: dict[str, Any]) -> "InputSpec":
        """From what `to_json` gave."""
        given: dict[str, Any] = {**value, "roots": tuple(value["roots"])}
        return cls(**given)


@dataclass(frozen=True, slots=True)
class Row:
    """One image of an input.

    Attributes:
        content: the bytes of an image file, or an array [C, H, W] of uint8 or of floating point in [0, 1].
        label, custom_id: the true class and the caller's name for the row, where the input has one.
    """

    content: bytes | NDArray[Any]
    label: int | None = None
    custom_id: str | None = None


@dataclass(frozen=True, slots=True)
class Labels:
    """The true classes of all rows of an input.

    Attributes:
        values_N: whole numbers; below 0: that row has none. None where the input has no labels at all.
        missing: why there are none, one sentence.
    """

    values_N: NDArray[np.int64] | None = None
    missing: str = ""


class Stamp(NamedTuple):
    """What tells whether a file was replaced or written to since it was hashed."""

    device: int
    inode: int
    size: int
    modified_ns: int
    changed_ns: int

    @classmethod
    def of(cls, path: Path) -> "Stamp | None":
        """Of a file as it is now; None where there is none."""
        try:
            found = path.stat()
        except OSError:
            return None
        return cls(found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns)


class Source(ABC):
    """An input that is open.

    Args:
        total: rows of the whole input.
        spec: which of them to certify.
        labels: of all rows.
        num_classes: of the model; None where labels are not looked at.

    Attributes:
        total: rows of the whole input.
        indices: the rows to certify, ascending, by their position in the whole input.
        remark: what should be known of the labels before anything is certified, one sentence; empty where all is well.

    Raises:
        InputError: there are no rows, or a label is not among the model's classes.
    """

    def __init__(self, total: int, spec: InputSpec, labels: Labels, num_classes: int | None) -> None:
        self.total = total
        self.indices = range(0, total, spec.stride)[: spec.limit]
        if not self.indices:
            raise InputError("The input holds no image: send at least one.")
        self._pinned: dict[Path, tuple[Stamp | None, str]] = {}
        self._labels_N = labels.values_N
        self.remark = labels.missing
        if self._labels_N is not None and num_classes is not None:
            self.remark = self._check_labels(self._labels_N, num_classes)

    def _check_labels(self, labels_N: NDArray[np.int64], num_classes: int) -> str:
        """The remark on the labels of the rows to certify."""
        chosen = labels_N[np.asarray(self.indices)]
        if beyond := np.flatnonzero(chosen >= num_classes).tolist():
            row = self.indices[beyond[0]]
            raise InputError(
                f"Row {row} has label {labels_N[row]}, but the model has the classes 0 to {num_classes - 1}, and "
                f"{len(beyond):,} of {len(chosen):,} rows have none of these: take the labels that it was trained on, "
                "or name their column."
            )
        hidden = int((chosen < 0).sum())
        if not hidden:
            return ""
        rest = "accuracy is that of the others" if hidden < len(chosen) else "so no accuracy is measured"
        return f"{hidden:,} of {len(chosen):,} images have a label below 0, or none: {rest}."

    @abstractmethod
    def paths(self, index: int | None = None) -> dict[str, Path]:
        """The files that a row is read from, or all chosen rows are, by the names that they have in the input."""

    def pin(self, expected: str | None) -> str:
        """The SHA-256 of what is to be certified: of a file its own, of several that of the lines of `sha256sum`.

        From now on `check_unchanged` compares with the files as they are.

        Raises:
            InputError: it is not the one that is expected.
        """
        # The stamp comes first: a change while the file is hashed is then seen later.
        self._pinned = {path: (Stamp.of(path), _sha256(path)) for path in self.paths().values()}
        found = self._digest()
        if expected not in (None, found):
            raise InputError(
                f"The input is another one than the job was made for (SHA-256 {found[:12]}, not {expected[:12]}): "
                "put the old one back, or make a new job."
            )
        return found

    def check_unchanged(self, index: int) -> None:
        """See that the files of a row are those that were pinned.

        Raises:
            InputError: one was replaced or written to.
        """
        for path in self.paths(index).values():
            before, digest = self._pinned.get(path, (None, ""))
            now = Stamp.of(path)
            if before is None or now == before:
                continue
            if _sha256(path) != digest:
                raise InputError(
                    f"{path.name} was changed while the job ran: put it back as it was, and resume the job."
                )
            self._pinned[path] = (now, digest)  # touched, or linked elsewhere

    def _digest(self) -> str:
        digests = [(self._pinned[path][1], name) for name, path in self.paths().items()]
        if len(digests) == 1:
            return digests[0][0]
        return hashlib.sha256("".join(f"{digest}  {name}\n" for digest, name in digests).encode()).hexdigest()

    def about(self, index: int) -> tuple[int | None, str | None]:
        """The true class and the custom id of a row, also where its image cannot be read."""
        label = NO_LABEL if self._labels_N is None else int(self._labels_N[index])
        return (label if label >= 0 else None), self.custom_id(index)

    @abstractmethod
    def read(self, index: int) -> Row:
        """One row, by its position in the whole input. Called from several threads.

        Raises:
            BadImageError: this row cannot be read; the others may.
        """

    def custom_id(self, index: int) -> str | None:  # noqa: ARG002  some inputs look it up
        """The caller's name for a row, where the input has one."""
        return None

    def close(self) -> None:  # noqa: B027  not every input holds files open
        """Close files."""


@dataclass(frozen=True, slots=True)
class Limits:
    """What an input may cost before it is refused, in bytes once it is unpacked, so that it does not matter how well it
    packs. The values are chosen: far above any set of the field.

    Attributes:
        images: rows.
        member_bytes: one image file.
        unpacked_bytes: an array that is packed in its file, and so has to be unpacked to disk.
    """

    images: int = 10_000_000
    member_bytes: int = 64 << 20
    unpacked_bytes: int = 2 << 30


def named_labels(names: Sequence[str | None], class_names: Sequence[str], where: str) -> NDArray[np.int64]:
    """Labels from the names of classes; None is no label.

    Raises:
        InputError: a name is none of the model's.
    """
    numbers = {name: number for number, name in enumerate(class_names)}
    unknown = next((name for name in names if name is not None and name not in numbers), None)
    if unknown is not None:
        there = ", ".join(class_names)[:200]
        raise InputError(f"{where} name the class {unknown[:60]!r}, which the model has not ({there}): use its names.")
    return np.array([NO_LABEL if name is None else numbers[name] for name in names], dtype=np.int64)


def _sha256(path: Path) -> str:
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise InputError(f"{path.name} cannot be read ({error.strerror}): put it back.") from error
