"""Promises of folders of classes and of the ImageNet layout: what is held out, and errors that name the remedy."""

from pathlib import Path

import pytest
import torch
from PIL import Image
from tests.image_sets import png, random_image, refusal

from spacte_core.data import DataConfig, DataError, load_data
from spacte_core.data.base import in_order, stream
from spacte_core.data.decode import decode
from spacte_core.pictures import PictureError

CPU = torch.device("cpu")


def write_classes(folder: Path, count: int = 2, classes: tuple[str, ...] = ("cat", "dog")) -> None:
    for label, name in enumerate(classes):
        (folder / name).mkdir(parents=True)
        for i in range(count):
            (folder / name / f"{i:03d}.png").write_bytes(png(random_image(100 * label + i)))


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


def test_a_folder_too_small_to_hold_anything_out_is_refused(tmp_path: Path):
    for name in ("cat", "dog"):
        (tmp_path / name).mkdir()
        for i in range(9):
            (tmp_path / name / f"{i}.png").write_bytes(png(random_image(i)))
    assert "No class has ten images" in refusal(f"folder:{tmp_path}", "test")
    (tmp_path / "test").mkdir()
    for name in ("cat", "dog"):
        (tmp_path / name).rename(tmp_path / "test" / name)
    assert len(load_data(DataConfig(source=f"folder:{tmp_path}"), "test")) == 18


def test_folder_errors_name_the_remedy(tmp_path: Path):
    assert "There is no folder" in refusal(f"folder:{tmp_path / 'nowhere'}")
    assert "no class folders" in refusal(f"folder:{tmp_path}")
    write_classes(tmp_path / "a")
    (tmp_path / "a" / "bird").mkdir()
    assert "bird has no image" in refusal(f"folder:{tmp_path / 'a'}")
    write_classes(tmp_path / "b" / "train")
    assert "no test or val folder" in refusal(f"folder:{tmp_path / 'b'}", "test")
    write_classes(tmp_path / "b" / "test", classes=("cat", "dog", "fox"))
    assert "'fox' that the training split lacks" in refusal(f"folder:{tmp_path / 'b'}", "test")


def test_size_and_channel_mismatch_name_the_option_that_converts(tmp_path: Path):
    write_classes(tmp_path)
    odd = tmp_path / "dog" / "odd.png"
    odd.write_bytes(png(random_image(7, height=5, width=9)))
    message = refusal(f"folder:{tmp_path}")
    assert "dog/odd.png is 3x5x9" in message
    assert "--set data.image_size=4" in message
    resized = load_data(DataConfig(source=f"folder:{tmp_path}", image_size=4), "train")
    assert resized.input_shape == (3, 4, 4)
    odd.write_bytes(png(random_image(7, channels=1)))
    assert "--set data.channels=3" in refusal(f"folder:{tmp_path}")
    grey = load_data(DataConfig(source=f"folder:{tmp_path}", channels=1), "train")
    assert grey.input_shape == (1, 4, 4)


def test_unreadable_images_are_named_and_too_many_refused(tmp_path: Path):
    write_classes(tmp_path, count=60)
    broken = tmp_path / "cat" / "broken.png"
    broken.write_bytes(png(random_image(1))[:40])
    data = load_data(DataConfig(source=f"folder:{tmp_path}"), "train")
    assert list(data.skipped) == ["cat/broken.png"]
    (tmp_path / "dog" / "text.png").write_text("not an image")
    message = refusal(f"folder:{tmp_path}")
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
