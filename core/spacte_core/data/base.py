"""What every source of labelled images offers the loop, and the order in which an epoch visits them."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, Protocol, Self

import numpy as np
import torch
from pydantic import BaseModel, ConfigDict, Field, model_validator
from torch import Tensor

from spacte_core.errors import DataError
from spacte_core.preprocessing import IMAGENET, Conversion, Preprocessing

Split = Literal["train", "test"]

MAX_UNREADABLE = 0.01
"""The share of unreadable images above which a data set is refused. Chosen: more is a damaged set, not a few files."""


READY = ("digits", "cifar10", "cifar100", "mnist", "svhn", "imagenet")
"""The sources whose images need no settings to be read."""


class DataConfig(BaseModel):
    """Where the images come from and how they are augmented while training."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    source: str = Field(
        description="digits, cifar10, cifar100, mnist, svhn, imagenet:PATH, folder:PATH, parquet:PATH or hf:OWNER/NAME."
    )
    root: Path = Field(
        default=Path("data"), description="Where downloaded sets (cifar10, cifar100, mnist, svhn) are kept."
    )
    crop: int = Field(default=0, ge=0, description="Zero pixels padded on each side before a random crop; 0: no crop.")
    flip: Literal[True, False, "alternate"] = Field(
        default=False,
        description="Mirror each training image with probability one half, or (alternate, not for imagenet) in every "
        "other epoch.",
    )
    image_size: int | None = Field(
        default=None,
        gt=0,
        description="folder, parquet and hf: resize the shorter edge and crop the centre to this many pixels.",
    )
    channels: Literal[1, 3] | None = Field(
        default=None, description="folder, parquet and hf: convert every image to grey (1) or RGB (3)."
    )
    enlarge: bool = Field(default=False, description="folder, parquet and hf: let image_size enlarge images.")
    convert: tuple[Literal["orientation", "depth", "transparency"], ...] = Field(
        default=(),
        description="folder, parquet and hf: turn images as EXIF says, take the upper 8 of 16 bits, lay transparent "
        "pixels on white; else such images are left out.",
    )
    label_column: str | None = Field(
        default=None,
        description="parquet and hf: the column of the class [label, or what hubs call it, such as fine_label].",
    )
    loader_processes: int = Field(
        default=4, ge=0, description="imagenet: processes that read and decode images; 0: none but our own."
    )

    @model_validator(mode="after")
    def _can_alternate(self) -> Self:
        if self.flip == "alternate" and self.kind == "imagenet":
            raise ValueError("images of imagenet are mirrored at random or not at all: set data.flip=true")
        return self

    @model_validator(mode="after")
    def _can_convert(self) -> Self:
        """What a set does not do with its images may not stand in the checkpoint, as if it had been done."""
        named = {"image_size": self.image_size, "channels": self.channels, "enlarge": self.enlarge}
        named |= {"convert": self.convert, "label_column": self.label_column}
        given = [name for name, value in named.items() if value]
        if given and self.kind in READY:
            raise ValueError(f"images and labels of {self.kind} are taken as they are: leave out data.{given[0]}")
        return self

    @property
    def preprocessing(self) -> Preprocessing | None:
        """What is done to every image of the set, as the checkpoint states it; None where the set says all."""
        if self.kind == "imagenet":
            return IMAGENET
        colours: tuple[Conversion, ...] = ("channels",) if self.channels else ()
        converted = (*colours, *self.convert)
        if self.image_size is None and not converted:
            return None
        return Preprocessing(resize=self.image_size, convert=converted)

    @property
    def kind(self) -> str:
        """The source's name without its path."""
        return self.source.partition(":")[0]

    @property
    def path(self) -> Path:
        """The folder or file after the colon; raises DataError where there is none."""
        _, _, path = self.source.partition(":")
        if not path:
            raise DataError(f"Data source {self.source!r} needs a path: write {self.source}:PATH.")
        return Path(path).expanduser()


@dataclass(frozen=True)
class Batch:
    """Images x_BCHW, float32 in [0, 1], and their labels y_B, int64, both on the device that asked."""

    x_BCHW: Tensor
    y_B: Tensor


class ImageData(Protocol):
    """One split of a labelled image set.

    Attributes:
        input_shape: (channels, height, width) of every image that `batches` yields.
        labels_N: the class of every image, int64.
        skipped: names of images that could not be read and were left out.
    """

    labels_N: Tensor

    @property
    def class_names(self) -> Sequence[str]: ...
    @property
    def input_shape(self) -> tuple[int, int, int]: ...
    @property
    def skipped(self) -> Sequence[str]: ...
    def __len__(self) -> int: ...

    def batches(
        self,
        plan: Sequence[Tensor],
        device: torch.device,
        augment: torch.Generator | None = None,
        mirrored_N: Tensor | None = None,
    ) -> Iterator[Batch]:
        """One batch for each tensor of indices in `plan`; augmented where a generator, on `device`, is given.

        Of sets in memory, `mirrored_N` (bool, by index) says which images are mirrored then, in place of coins that
        the generator tosses. The same plan, generator state and `mirrored_N` give the same batches.
        """
        ...


def stream(
    seed: int, *, epoch: int, purpose: str, rank: int = 0, device: torch.device | str = "cpu"
) -> torch.Generator:
    """A random generator that depends on nothing but its arguments; workers of one run differ in `rank`.

    Every epoch draws from streams of its own, so that an interrupted one can be repeated: no generator state is saved.
    """
    entropy = [seed, epoch, rank, *purpose.encode()]
    state = np.random.SeedSequence(entropy).generate_state(2, np.uint32)
    return torch.Generator(device).manual_seed(int(state[0]) << 32 | int(state[1]))


def shuffled(size: int, batch: int, *, seed: int, epoch: int, rank: int = 0, world: int = 1) -> list[Tensor]:
    """The index batches of a training epoch, shuffled, with the last partial batch kept.

    With `world` workers, each global batch is cut into `world` equal slices and this is slice `rank` of each: together
    the workers see the same global batches as one worker would, save the at most `world - 1` last samples that cannot
    be shared evenly.
    """
    order = torch.randperm(size, generator=stream(seed, epoch=epoch, purpose="order"))
    shares = [(whole, len(whole) // world) for whole in order.split(batch)]
    return [whole[rank * share : (rank + 1) * share] for whole, share in shares if share]


def alternating(size: int, *, seed: int, epoch: int) -> Tensor:
    """Which of `size` images an epoch (1-based) mirrors, bool [size]: those that the epoch before did not.

    Which half the first epoch mirrors follows from the seed. In two epochs every image is seen both ways, which coins
    of their own would do for half of them (K. Jordan 2024, "94 % on CIFAR-10 in 3.29 seconds", section 3.6).
    """
    first_N = torch.rand(size, generator=stream(seed, epoch=0, purpose="mirror")) < 0.5
    return first_N if epoch % 2 else ~first_N


def in_order(size: int, batch: int) -> list[Tensor]:
    """The index batches of one pass for measuring, in the set's own order."""
    return list(torch.arange(size).split(batch))


def hold_out(labels_N: Tensor, split: Split) -> Tensor:
    """Indices of a split of a set that has no splits: every tenth image of each class is for testing.

    Raises DataError where the test split would be empty.
    """
    test = torch.zeros(len(labels_N), dtype=torch.bool)
    for label in labels_N.unique():
        test[(labels_N == label).nonzero().squeeze(1)[9::10]] = True
    if split == "test" and not test.any():
        raise DataError(
            "No class has ten images, so that none can be held out: add images, or have a test split (in a folder: "
            "move the class folders into a folder `test`)."
        )
    return (test if split == "test" else ~test).nonzero().squeeze(1)


def check_unreadable(skipped: Sequence[str], seen: int, where: str, why: str) -> None:
    """Raise DataError where more than 1 % of the images seen could not be read; `why` is of the first."""
    if len(skipped) > MAX_UNREADABLE * seen:
        named = ", ".join(skipped[:5]) + (", ..." if len(skipped) > 5 else "")
        raise DataError(
            f"{len(skipped)} of {seen} images of {where} cannot be taken ({named}): replace or remove them, or convert "
            f"them with --set data.convert and the like. The first: {why}"
        )


def check_classes(labels_N: Tensor, class_names: Sequence[str], where: str) -> None:
    """Raise DataError where a class has no image or a label has no class."""
    lowest, highest = (int(bound) for bound in labels_N.aminmax()) if len(labels_N) else (0, -1)
    if lowest < 0 or highest >= len(class_names):
        raise DataError(
            f"{where} has labels from {lowest} to {highest}, but there are {len(class_names)} classes: "
            f"number them 0 to {len(class_names) - 1}."
        )
    counts = torch.bincount(labels_N, minlength=len(class_names))
    empty = [class_names[i] for i in (counts == 0).nonzero().squeeze(1).tolist()]
    if empty:
        named = ", ".join(repr(name) for name in empty[:5])
        raise DataError(f"{where} has no image of class {named}: add some or remove the class.")
