"""Promises of sets that are asked for by name: the digits, torchvision's, and what is said of no such set."""

import struct
from pathlib import Path

import numpy as np
import pytest
import torch

from spacte_core.data import DataConfig, DataError, load_data
from spacte_core.data.base import in_order
from spacte_core.data.digits import load_digits

CPU = torch.device("cpu")


def test_digits_are_the_published_images_on_the_8_bit_grid():
    from sklearn.datasets import load_digits as original

    ink = original().images
    images, labels = load_digits("train")
    test_images, test_labels = load_digits("test")
    assert images.shape == (1400, 1, 8, 8)
    assert test_images.shape == (397, 1, 8, 8)
    assert images.dtype == np.uint8
    assert set(np.unique(images)) <= {round(v * 255 / 16) for v in range(17)}
    # Every original image is in exactly one of the two parts.
    both = np.concatenate([images, test_images]).reshape(1797, -1)
    expected = np.array([[round(v * 255 / 16) for v in row] for row in ink.reshape(1797, -1).tolist()])
    assert sorted(map(bytes, both)) == sorted(map(bytes, expected.astype(np.uint8)))
    assert np.bincount(np.concatenate([labels, test_labels])).tolist() == np.bincount(original().target).tolist()


def test_digits_split_is_frozen():
    """A digit held out here must be held out wherever a model was trained."""
    _, labels = load_digits("test")
    assert labels[:12].tolist() == [0, 4, 2, 7, 7, 9, 1, 9, 0, 9, 3, 8]
    assert np.bincount(labels).min() >= 30


# torchvision's sets


def write_mnist(root: Path) -> None:
    raw = root / "MNIST" / "raw"
    raw.mkdir(parents=True)
    for prefix, count in (("train", 3), ("t10k", 2)):
        images = np.arange(count * 784, dtype=np.uint8)
        header = struct.pack(">IIII", 2051, count, 28, 28)
        (raw / f"{prefix}-images-idx3-ubyte").write_bytes(header + images.tobytes())
        (raw / f"{prefix}-labels-idx1-ubyte").write_bytes(struct.pack(">II", 2049, count) + bytes(range(count)))


def test_mnist_from_its_own_files(tmp_path: Path):
    write_mnist(tmp_path)
    data = load_data(DataConfig(source="mnist", root=tmp_path), "train")
    batch = next(data.batches(in_order(3, 3), CPU))
    assert batch.x_BCHW.shape == (3, 1, 28, 28)
    assert batch.y_B.tolist() == [0, 1, 2]
    assert torch.equal(batch.x_BCHW[0, 0, 0, :4] * 255, torch.tensor([0.0, 1.0, 2.0, 3.0]))


@pytest.mark.parametrize(("source", "name"), [("cifar10", "CIFAR10"), ("cifar100", "CIFAR100"), ("svhn", "SVHN")])
def test_colour_sets_become_channels_first(source: str, name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """torchvision's layouts ([N, 32, 32, 3] for CIFAR, [N, 3, 32, 32] for SVHN) come out as one."""
    import torchvision.datasets

    pixels = np.random.default_rng(0).integers(0, 256, (2, 3, 32, 32), dtype=np.uint8)

    class Stored:
        classes = ("a", "b")
        targets = (1, 0)
        labels = np.array([1, 0])
        data = pixels if source == "svhn" else pixels.transpose(0, 2, 3, 1)

        def __init__(self, root: str, **options: object) -> None:
            assert root == str(tmp_path)

    monkeypatch.setattr(torchvision.datasets, name, Stored)
    data = load_data(DataConfig(source=source, root=tmp_path, crop=4, flip=True), "train")
    batch = next(data.batches(in_order(2, 2), CPU))
    assert torch.equal(batch.x_BCHW, torch.from_numpy(pixels).float() / 255)
    assert batch.y_B.tolist() == [1, 0]


def test_a_failed_download_says_what_to_do_instead(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    import torchvision.datasets

    def no_network(*arguments: object, **options: object) -> None:
        raise OSError("no route to host")

    monkeypatch.setattr(torchvision.datasets, "CIFAR10", no_network)
    with pytest.raises(DataError, match=r"cifar10 is not in .* --data parquet:PATH"):
        load_data(DataConfig(source="cifar10", root=tmp_path), "train")


def test_unknown_source_and_missing_path():
    with pytest.raises(DataError, match="no data source 'cifar'"):
        load_data(DataConfig(source="cifar"), "train")
    with pytest.raises(DataError, match="write folder:PATH"):
        load_data(DataConfig(source="folder"), "train")
