"""What every source of images offers the driver, and what may be wrong with one."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from numpy.typing import NDArray


class InputError(Exception):
    """The input as a whole cannot be certified; the message is one sentence that names the remedy."""


@dataclass(frozen=True, slots=True)
class Row:
    """One image of an input.

    Attributes:
        content: the bytes of an image file (PNG, JPEG, WebP, npy), or an array [C, H, W] of uint8 or of
            floating point in [0, 1].
        label: the true class, where the input has one.
        custom_id: the caller's name for the row, where the input has one.
    """

    content: bytes | NDArray[Any]
    label: int | None = None
    custom_id: str | None = None


class Source(Protocol):
    """An input that is open. `read` is called from several threads."""

    @property
    def indices(self) -> Sequence[int]:
        """The rows to certify, ascending, by their position in the whole input."""
        ...

    def read(self, index: int) -> Row:
        """One row, by its position in the whole input.

        Raises:
            BadImageError: this row cannot be read; the others may.
        """
        ...

    def about(self, index: int) -> tuple[int | None, str | None]:
        """Label and custom id of a row whose image cannot be read, as far as they are known nevertheless."""
        ...

    def close(self) -> None:
        """Let go of files."""
        ...


@dataclass(frozen=True, slots=True)
class Limits:
    """What an input may cost before it is refused.

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


def chosen(total: int, stride: int, limit: int | None) -> range:
    """Rows 0, stride, 2 stride, ... of `total`, at most `limit` of them.

    Raises:
        InputError: there are none.
    """
    rows = range(0, total, stride)
    if limit is not None:
        rows = rows[:limit]
    if not rows:
        raise InputError("The input holds no image: send at least one.")
    return rows
