"""`imagenet:PATH`: the ImageNet folder layout, read and decoded by processes beside the training.

    PATH/train/n01440764/*.JPEG   PATH/val/n01440764/*.JPEG

Training images: random resized crop to 224 and a flip, by torchvision's transforms; others: shorter edge to 256, centre
crop to 224. Every image is converted to RGB and turned as EXIF says, and no other augmentation is made.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader, Dataset
from torchvision import transforms

from spacte_core.errors import DataError
from spacte_core.pictures import PictureError
from spacte_core.preprocessing import IMAGENET, Asked, preprocess

from .base import Batch, DataConfig, Split, check_unreadable
from .folder import class_files, class_names_of, split_folder

SIZE = 224  # METHODS section 2
TRAIN: Callable[[Image.Image], Tensor] = transforms.Compose(
    [transforms.RandomResizedCrop(SIZE), transforms.RandomHorizontalFlip(), transforms.PILToTensor()]
)


class _Files(Dataset[tuple[int, Tensor | None]]):
    """(index, uint8 [3, 224, 224]) of a file, decoded, or (index, None) where it is unreadable."""

    def __init__(self, files: Sequence[Path], seed: int | None) -> None:
        """With a seed: the training transforms, a function of it and of the index. Without: the test ones."""
        self.files, self.seed = files, seed

    def __getitem__(self, index: int) -> tuple[int, Tensor | None]:
        size = (SIZE, SIZE) if self.seed is None else None
        try:
            data = self.files[index].read_bytes()
            pixels_CHW, _ = preprocess(data, IMAGENET, Asked(resize=True, enlarge=True), channels=3, size=size)
        except (PictureError, OSError):
            return index, None
        if self.seed is None:
            return index, torch.from_numpy(pixels_CHW)
        # torchvision draws from the global generator. Seeding it for each image makes the crop independent of
        # how many processes share the work.
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(self.seed ^ index)
            return index, TRAIN(Image.fromarray(pixels_CHW.transpose(1, 2, 0)))


@dataclass
class FileData:
    """Images read from their files whenever they are needed."""

    files: Sequence[Path]
    labels_N: Tensor
    class_names: Sequence[str]
    loader_processes: int
    where: str
    skipped: list[str] = field(default_factory=list)
    seen: int = 0

    @property
    def input_shape(self) -> tuple[int, int, int]:
        return 3, SIZE, SIZE

    def __len__(self) -> int:
        return len(self.files)

    def batches(
        self,
        plan: Sequence[Tensor],
        device: torch.device,
        augment: torch.Generator | None = None,
        mirrored_N: Tensor | None = None,  # noqa: ARG002 - of sets in memory
    ) -> Iterator[Batch]:
        loader = DataLoader(
            _Files(self.files, None if augment is None else augment.initial_seed()),
            batch_sampler=[index_B.tolist() for index_B in plan],
            num_workers=self.loader_processes,
            collate_fn=list,
            pin_memory=device.type == "cuda",
        )
        for rows in loader:
            self._note([index for index, image in rows if image is None], len(rows))
            kept = [(index, image) for index, image in rows if image is not None]
            if kept:
                x_BCHW = torch.stack([image for _, image in kept]).to(device, non_blocking=True)
                y_B = self.labels_N[[index for index, _ in kept]].to(device, non_blocking=True)
                yield Batch(x_BCHW.float().div_(255), y_B)

    def _note(self, unreadable: list[int], seen: int) -> None:
        """Count what could not be read; more than 1 % of at least 1,000 images (or of all) is a DataError."""
        self.seen += seen
        names = (str(self.files[index]) for index in unreadable)
        self.skipped += [name for name in names if name not in self.skipped]
        if self.seen >= min(1_000, len(self.files)):
            check_unreadable(
                self.skipped, min(self.seen, len(self.files)), self.where, "it is no picture that is read."
            )


def load(config: DataConfig, split: Split) -> FileData:
    """One split, its files listed but none read yet."""
    folder = split_folder(config.path, split)
    if folder is None:
        raise DataError(f"{config.path} has no train folder: it needs train/CLASS/ and val/CLASS/ folders.")
    class_names = class_names_of(config.path)
    found = class_files(folder)
    if list(found) != class_names:
        raise DataError(f"{folder} and the training split have different class folders: make them the same.")
    labels_N = torch.tensor([label for label, files in enumerate(found.values()) for _ in files])
    files = [file for files in found.values() for file in files]
    return FileData(files, labels_N, class_names, config.loader_processes, str(folder))
