"""Promises of the image sets: exact pixels, fixed splits, right augmentation, errors that name the remedy."""

import io
import json
import struct
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image
from pydantic import ValidationError

from spacte_core.data import DataConfig, DataError, load_data
from spacte_core.data.base import alternating, hold_out, in_order, shuffled, stream
from spacte_core.data.decode import decode
from spacte_core.data.digits import load_digits
from spacte_core.data.memory import crop_and_flip
from spacte_core.pictures import PictureError

CPU = torch.device("cpu")


def png(pixels: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, format="PNG")
    return buffer.getvalue()


def random_image(seed: int, height: int = 4, width: int = 4, channels: int = 3) -> np.ndarray:
    shape = (height, width, channels) if channels > 1 else (height, width)
    return np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)


def write_classes(folder: Path, count: int = 2, classes: tuple[str, ...] = ("cat", "dog")) -> None:
    for label, name in enumerate(classes):
        (folder / name).mkdir(parents=True)
        for i in range(count):
            (folder / name / f"{i:03d}.png").write_bytes(png(random_image(100 * label + i)))


# Digits


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


# Order and seeds


def test_epoch_order_is_a_shuffle_that_depends_on_seed_and_epoch_alone():
    plan = shuffled(10, 4, seed=1, epoch=3)
    assert [len(piece) for piece in plan] == [4, 4, 2]
    assert sorted(torch.cat(plan).tolist()) == list(range(10))
    assert [p.tolist() for p in shuffled(10, 4, seed=1, epoch=3)] == [p.tolist() for p in plan]
    assert torch.cat(shuffled(10, 4, seed=1, epoch=4)).tolist() != torch.cat(plan).tolist()
    assert torch.cat(shuffled(10, 4, seed=2, epoch=3)).tolist() != torch.cat(plan).tolist()


def test_workers_share_the_global_batches_of_one_process():
    whole = shuffled(103, 16, seed=0, epoch=1)
    parts = [shuffled(103, 16, seed=0, epoch=1, rank=r, world=3) for r in range(3)]
    assert len({len(part) for part in parts}) == 1
    for batch, *slices in zip(whole, *parts, strict=True):
        assert torch.cat(slices).tolist() == batch[: len(batch) // 3 * 3].tolist()
        assert len({len(piece) for piece in slices}) == 1


def test_streams_differ_in_every_argument():
    def first(**change: object) -> float:
        arguments = {"seed": 1, "epoch": 1, "purpose": "noise", "rank": 0} | change
        seed = arguments.pop("seed")
        return torch.rand(1, generator=stream(seed, **arguments)).item()  # type: ignore[arg-type]

    draws = [first(), first(seed=2), first(epoch=2), first(purpose="order"), first(rank=1)]
    assert len(set(draws)) == 5
    assert first() == draws[0]


def test_held_out_tenth_of_each_class():
    labels = torch.tensor([0] * 20 + [1] * 11 + [2] * 3)
    test, train = hold_out(labels, "test"), hold_out(labels, "train")
    assert test.tolist() == [9, 19, 29]
    assert sorted(test.tolist() + train.tolist()) == list(range(34))


# Augmentation


def test_batches_are_exact_256ths_in_the_order_of_the_plan():
    data = load_data(DataConfig(source="digits"), "test")
    batches = list(data.batches(in_order(len(data), 100), CPU))
    x = torch.cat([b.x_BCHW for b in batches])
    images, labels = load_digits("test")
    assert torch.equal(x, torch.from_numpy(images).float() / 255)
    assert torch.cat([b.y_B for b in batches]).tolist() == labels.tolist()


def test_crop_and_flip_give_every_window_of_the_padded_image():
    """Every output is one of the crops of the zero-padded image or its mirror, and each crop occurs."""
    padding, image = 1, torch.arange(1, 13, dtype=torch.uint8).reshape(1, 1, 3, 4)
    batch = image.expand(2000, 1, 3, 4)
    out = crop_and_flip(batch, padding, True, stream(0, epoch=1, purpose="augment"))
    windows = set()
    for mirrored in (image, image.flip(3)):
        padded = torch.nn.functional.pad(mirrored, [padding] * 4)
        for dy in range(3):
            for dx in range(3):
                windows.add(bytes(padded[0, 0, dy : dy + 3, dx : dx + 4].reshape(-1).tolist()))
    seen = {bytes(each.reshape(-1).tolist()) for each in out}
    assert seen == windows
    assert len(windows) == 18


def test_augmentation_repeats_under_its_generator_and_only_then():
    data = load_data(DataConfig(source="digits", crop=1), "train")
    plan = shuffled(len(data), 64, seed=0, epoch=1)

    def run(epoch: int) -> torch.Tensor:
        generator = stream(0, epoch=epoch, purpose="augment")
        return torch.cat([b.x_BCHW for b in data.batches(plan, CPU, generator)])

    assert torch.equal(run(1), run(1))
    assert not torch.equal(run(1), run(2))


def test_alternating_flips_show_every_image_both_ways_in_two_epochs():
    """About half of the images are mirrored in each epoch, the same ones in every other, and others of another seed."""
    first, second, third = (alternating(1000, seed=3, epoch=epoch) for epoch in (1, 2, 3))
    assert torch.equal(second, ~first)
    assert torch.equal(third, first)
    assert 400 < int(first.sum()) < 600
    assert not torch.equal(first, alternating(1000, seed=4, epoch=1))


def test_images_that_are_named_are_mirrored_and_no_others():
    """In the order of a shuffled plan, without a crop; the generator tosses no coin."""
    data = load_data(DataConfig(source="digits", flip="alternate"), "test")
    plain = next(data.batches([torch.arange(len(data))], CPU)).x_BCHW
    (plan,) = shuffled(len(data), len(data), seed=0, epoch=1)
    mirrored_N = alternating(len(data), seed=0, epoch=1)
    (batch,) = data.batches([plan], CPU, stream(0, epoch=1, purpose="augment"), mirrored_N)
    for x_CHW, index in zip(batch.x_BCHW, plan.tolist(), strict=True):
        assert torch.equal(x_CHW, plain[index].flip(2) if mirrored_N[index] else plain[index])


def test_alternating_flips_need_a_set_in_memory():
    with pytest.raises(ValidationError, match=r"set data\.flip=true"):
        DataConfig(source="imagenet:somewhere", flip="alternate")


# Folders


def test_folder_with_splits(tmp_path: Path):
    write_classes(tmp_path / "train")
    write_classes(tmp_path / "val", count=1)
    config = DataConfig(source=f"folder:{tmp_path}")
    train, test = load_data(config, "train"), load_data(config, "test")
    assert (len(train), len(test)) == (4, 2)
    assert list(train.class_names) == ["cat", "dog"]
    assert train.input_shape == (3, 4, 4)
    batch = next(train.batches(in_order(4, 4), CPU))
    assert torch.equal(batch.x_BCHW[2], torch.from_numpy(random_image(100)).permute(2, 0, 1).float() / 255)
    assert batch.y_B.tolist() == [0, 0, 1, 1]


def test_what_notebooks_and_archivers_leave_is_passed_over(tmp_path: Path):
    write_classes(tmp_path, count=12)
    for hidden in (tmp_path / ".ipynb_checkpoints", tmp_path / "__MACOSX", tmp_path / "cat" / ".ipynb_checkpoints"):
        hidden.mkdir()
        (hidden / "000-checkpoint.png").write_bytes(png(random_image(7)))
    (tmp_path / "cat" / "._000.png").write_bytes(b"resource fork")
    data = load_data(DataConfig(source=f"folder:{tmp_path}"), "train")
    assert tuple(data.class_names) == ("cat", "dog")
    assert len(data) == 22  # of each class every tenth image is held out


def test_folder_without_splits_holds_out_every_tenth(tmp_path: Path):
    write_classes(tmp_path, count=12)
    config = DataConfig(source=f"folder:{tmp_path}")
    assert len(load_data(config, "train")) == 22
    assert len(load_data(config, "test")) == 2


def folder_error(path: Path, split: str = "train", **options: object) -> str:
    with pytest.raises(DataError) as caught:
        load_data(DataConfig(source=f"folder:{path}", **options), split)  # type: ignore[arg-type]
    return str(caught.value)


def test_a_folder_too_small_to_hold_anything_out_is_refused(tmp_path: Path):
    for name in ("cat", "dog"):
        (tmp_path / name).mkdir()
        for i in range(9):
            (tmp_path / name / f"{i}.png").write_bytes(png(random_image(i)))
    assert "No class has ten images" in folder_error(tmp_path, "test")
    (tmp_path / "test").mkdir()
    for name in ("cat", "dog"):
        (tmp_path / name).rename(tmp_path / "test" / name)
    assert len(load_data(DataConfig(source=f"folder:{tmp_path}"), "test")) == 18


def test_folder_errors_name_the_remedy(tmp_path: Path):
    assert "There is no folder" in folder_error(tmp_path / "nowhere")
    assert "no class folders" in folder_error(tmp_path)
    write_classes(tmp_path / "a")
    (tmp_path / "a" / "bird").mkdir()
    assert "bird has no image" in folder_error(tmp_path / "a")
    write_classes(tmp_path / "b" / "train")
    assert "no test or val folder" in folder_error(tmp_path / "b", "test")
    write_classes(tmp_path / "b" / "test", classes=("cat", "dog", "fox"))
    assert "'fox' that the training split lacks" in folder_error(tmp_path / "b", "test")


def test_size_and_channel_mismatch_name_the_option_that_converts(tmp_path: Path):
    write_classes(tmp_path)
    odd = tmp_path / "dog" / "odd.png"
    odd.write_bytes(png(random_image(7, height=5, width=9)))
    message = folder_error(tmp_path)
    assert "dog/odd.png is 3x5x9" in message
    assert "--set data.image_size=4" in message
    resized = load_data(DataConfig(source=f"folder:{tmp_path}", image_size=4), "train")
    assert resized.input_shape == (3, 4, 4)
    odd.write_bytes(png(random_image(7, channels=1)))
    assert "--set data.channels=3" in folder_error(tmp_path)
    grey = load_data(DataConfig(source=f"folder:{tmp_path}", channels=1), "train")
    assert grey.input_shape == (1, 4, 4)


def test_unreadable_images_are_named_and_too_many_refused(tmp_path: Path):
    write_classes(tmp_path, count=60)
    broken = tmp_path / "cat" / "broken.png"
    broken.write_bytes(png(random_image(1))[:40])
    data = load_data(DataConfig(source=f"folder:{tmp_path}"), "train")
    assert list(data.skipped) == ["cat/broken.png"]
    (tmp_path / "dog" / "text.png").write_text("not an image")
    message = folder_error(tmp_path)
    assert message.startswith("2 of 122 images")
    assert "cat/broken.png, dog/text.png" in message


@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
def test_an_image_that_pillow_warns_of_is_unreadable(monkeypatch: pytest.MonkeyPatch):
    data = png(random_image(0))
    config = DataConfig(source="folder:x")
    assert decode(data, config).shape == (3, 4, 4)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 15)
    with pytest.raises(PictureError, match="4 x 4 pixels"):
        decode(data, config)


# Parquet files


def write_parquet(
    file: Path, labels: list[Any], column: str = "img", names: list[str] | None = None, label: str = "label"
) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    rows = [{"bytes": png(random_image(i)), "path": f"{i}.png"} for i in range(len(labels))]
    table = pa.table({column: rows, "coarse_label": [0] * len(labels), label: labels})
    if names:
        info = {"info": {"features": {label: {"names": names, "_type": "ClassLabel"}}}}
        table = table.replace_schema_metadata({"huggingface": json.dumps(info)})
    pq.write_table(table, file)


def test_parquet_folder_keeps_the_order_and_the_names(tmp_path: Path):
    write_parquet(tmp_path / "train-00000-of-00002.parquet", [0, 1], names=["no", "yes"])
    write_parquet(tmp_path / "train-00001-of-00002.parquet", [1], names=["no", "yes"])
    write_parquet(tmp_path / "test-00000-of-00001.parquet", [1, 0, 1], column="image", names=["no", "yes"])
    config = DataConfig(source=f"parquet:{tmp_path}")
    train, test = load_data(config, "train"), load_data(config, "test")
    assert list(train.class_names) == ["no", "yes"]
    assert next(train.batches(in_order(3, 3), CPU)).y_B.tolist() == [0, 1, 1]
    batch = next(test.batches(in_order(3, 3), CPU))
    assert batch.y_B.tolist() == [1, 0, 1]
    assert torch.equal(batch.x_BCHW[2], torch.from_numpy(random_image(2)).permute(2, 0, 1).float() / 255)


def parquet_error(path: Path, split: str = "train") -> str:
    with pytest.raises(DataError) as caught:
        load_data(DataConfig(source=f"parquet:{path}"), split)  # type: ignore[arg-type]
    return str(caught.value)


def test_parquet_errors_name_the_remedy(tmp_path: Path):
    assert "There is no file or folder" in parquet_error(tmp_path / "nowhere")
    assert "holds no train-*.parquet" in parquet_error(tmp_path)
    (tmp_path / "train-0.parquet").write_text("nonsense")
    assert "not a parquet file" in parquet_error(tmp_path)
    pq.write_table(pa.table({"pixels": [1], "label": [0]}), tmp_path / "train-0.parquet")
    assert "columns pixels, label" in parquet_error(tmp_path)
    write_parquet(tmp_path / "train-0.parquet", [0, 2, 2])
    assert "no image of class '1'" in parquet_error(tmp_path)
    write_parquet(tmp_path / "train-0.parquet", [-1, 0])
    assert "1 rows of" in parquet_error(tmp_path)
    write_parquet(tmp_path / "train-0.parquet", [0, None])
    assert "1 rows of" in parquet_error(tmp_path)
    write_parquet(tmp_path / "train-0.parquet", ["cat", "dog"])
    assert "of type string: number the classes" in parquet_error(tmp_path)


def test_columns_as_hubs_name_them_and_any_other_by_name(tmp_path: Path):
    write_parquet(tmp_path / "train-0.parquet", [0, 1], names=["no", "yes"], label="fine_label")
    train = load_data(DataConfig(source=f"parquet:{tmp_path}"), "train")
    assert (list(train.class_names), train.labels_N.tolist()) == (["no", "yes"], [0, 1])
    write_parquet(tmp_path / "train-0.parquet", [1, 0], label="genus")
    assert "columns img, coarse_label, genus, and no label" in parquet_error(tmp_path)
    named = load_data(DataConfig(source=f"parquet:{tmp_path}", label_column="genus"), "train")
    assert named.labels_N.tolist() == [1, 0]
    with pytest.raises(DataError, match="no column 'species' among img, coarse_label, genus"):
        load_data(DataConfig(source=f"parquet:{tmp_path}", label_column="species"), "train")


def test_a_clone_of_a_hub_and_its_hidden_test_labels(tmp_path: Path):
    write_parquet(tmp_path / "data" / "train-0.parquet", [0, 1])
    write_parquet(tmp_path / "data" / "test-0.parquet", [-1, -1])
    config = DataConfig(source=f"parquet:{tmp_path}")
    assert load_data(config, "train").labels_N.tolist() == [0, 1]
    assert "2 rows of" in parquet_error(tmp_path, "test")
    write_parquet(tmp_path / "data" / "validation-0.parquet", [1, 0])
    assert load_data(config, "test").labels_N.tolist() == [1, 0]
    (tmp_path / "data").rename(tmp_path / "plain")
    assert load_data(config, "train").labels_N.tolist() == [0, 1]
    write_parquet(tmp_path / "other" / "train-0.parquet", [0, 1])
    assert "several sets (other, plain)" in parquet_error(tmp_path)


@pytest.mark.shared
def test_the_shared_cifar10_is_read_in_place():
    path = Path(__file__).parents[4] / "shared/data/cifar10"
    if not path.is_dir():
        pytest.skip("the CIFAR-10 parquet files are not beside the checkout")
    data = load_data(DataConfig(source=f"parquet:{path}"), "test")
    assert len(data) == 10_000
    assert data.input_shape == (3, 32, 32)
    assert next(data.batches([torch.arange(10)], CPU)).y_B.tolist() == [3, 8, 8, 0, 6, 6, 1, 6, 3, 1]


# The ImageNet layout


def write_imagenet(folder: Path) -> None:
    for split, count in (("train", 3), ("val", 2)):
        for label, name in enumerate(("n01", "n02")):
            (folder / split / name).mkdir(parents=True)
            for i in range(count):
                pixels = random_image(10 * label + i, height=260 + 7 * i, width=300, channels=1 if i else 3)
                (folder / split / name / f"{i}.png").write_bytes(png(pixels))


def test_imagenet_layout_gives_the_same_crops_with_any_number_of_processes(tmp_path: Path):
    write_imagenet(tmp_path)
    config = DataConfig(source=f"imagenet:{tmp_path}", loader_processes=0)
    train, test = load_data(config, "train"), load_data(config, "test")
    assert (len(train), len(test)) == (6, 4)

    def run(processes: int, epoch: int) -> list[torch.Tensor]:
        data = load_data(config.model_copy(update={"loader_processes": processes}), "train")
        generator = stream(0, epoch=epoch, purpose="augment")
        return [b.x_BCHW for b in data.batches(in_order(6, 4), CPU, generator)]

    first = run(0, epoch=1)
    assert [x.shape for x in first] == [(4, 3, 224, 224), (2, 3, 224, 224)]
    assert all(torch.equal(a, b) for a, b in zip(first, run(2, epoch=1), strict=True))
    assert not torch.equal(first[0], run(0, epoch=2)[0])
    batch = next(test.batches(in_order(4, 4), CPU))
    assert batch.y_B.tolist() == [0, 0, 1, 1]
    assert 0 <= batch.x_BCHW.min() <= batch.x_BCHW.max() <= 1


def test_imagenet_counts_unreadable_files_while_it_reads(tmp_path: Path):
    write_imagenet(tmp_path)
    (tmp_path / "val" / "n02" / "1.png").write_bytes(b"\x89PNG nothing")
    data = load_data(DataConfig(source=f"imagenet:{tmp_path}", loader_processes=0), "test")
    with pytest.raises(DataError, match=r"1 of 4 images .*n02/1\.png"):
        list(data.batches(in_order(4, 4), CPU))


def test_a_file_that_cannot_be_opened_is_one_that_cannot_be_read(tmp_path: Path):
    write_imagenet(tmp_path)
    (tmp_path / "val" / "n02" / "1.png").unlink()
    (tmp_path / "val" / "n02" / "1.png").symlink_to(tmp_path / "nowhere.png")
    data = load_data(DataConfig(source=f"imagenet:{tmp_path}", loader_processes=0), "test")
    with pytest.raises(DataError, match=r"1 of 4 images .*n02/1\.png"):
        list(data.batches(in_order(4, 4), CPU))
    with pytest.raises(DataError, match="1 of 4 images"):
        load_data(DataConfig(source=f"folder:{tmp_path}", image_size=8, channels=3), "test")


def test_imagenet_flat_validation_folder_is_explained(tmp_path: Path):
    write_imagenet(tmp_path)
    for file in (tmp_path / "val").rglob("*.png"):
        file.unlink()
    with pytest.raises(DataError, match="has no image"):
        load_data(DataConfig(source=f"imagenet:{tmp_path}"), "test")


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
