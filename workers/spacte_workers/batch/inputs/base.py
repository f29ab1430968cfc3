"""Which images are certified, what every open input offers the driver, and what may be wrong with one."""

from abc import ABC, abstractmethod
from dataclasses import asdict, dataclass
from typing import Any, Literal

from numpy.typing import NDArray


class InputError(Exception):
    """The input as a whole cannot be certified; the message is one sentence that names the remedy."""


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
    """

    kind: Literal["file", "dataset"]
    location: str
    split: str = "test"
    stride: int = 1
    limit: int | None = None
    roots: tuple[str, ...] = ()
    data_root: str = "data"

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
        content: the bytes of an image file (PNG, JPEG, WebP, npy), or an array [C, H, W] of uint8 or of
            floating point in [0, 1].
        label, custom_id: the true class and the caller's name for the row, where the input has one.
    """

    content: bytes | NDArray[Any]
    label: int | None = None
    custom_id: str | None = None


class Source(ABC):
    """An input that is open.

    Args:
        total: rows of the whole input.
        spec: which of them to certify.

    Attributes:
        indices: the rows to certify, ascending, by their position in the whole input.

    Raises:
        InputError: there are none.
    """

    def __init__(self, total: int, spec: InputSpec) -> None:
        self.indices = range(0, total, spec.stride)[: spec.limit]
        if not self.indices:
            raise InputError("The input holds no image: send at least one.")

    @abstractmethod
    def read(self, index: int) -> Row:
        """One row, by its position in the whole input. Called from several threads.

        Raises:
            BadImageError: this row cannot be read; the others may.
        """

    def about(self, index: int) -> tuple[int | None, str | None]:  # noqa: ARG002  most inputs look it up
        """Label and custom id of a row whose image cannot be read, as far as they are known nevertheless."""
        return None, None

    def close(self) -> None:  # noqa: B027  not every input holds files open
        """Close files."""


@dataclass(frozen=True, slots=True)
class Limits:
    """What an input may cost before it is refused. The values are chosen: far above any set of the field.

    Attributes:
        images: rows.
        member_bytes: one image file, unpacked.
        unpacked_bytes: an array, unpacked.
        ratio: unpacked over packed size, above `ratio_floor` bytes: real images stay below 20.
        ratio_floor: unpacked size below which the ratio is not looked at.
    """

    images: int = 10_000_000
    member_bytes: int = 64 << 20
    unpacked_bytes: int = 64 << 30
    ratio: int = 100
    ratio_floor: int = 16 << 20
