"""Promises of batches: fixed order, streams and splits, exact pixels, right augmentation."""

import pytest
import torch
from pydantic import ValidationError

from spacte_core.data import DataConfig, load_data
from spacte_core.data.base import alternating, hold_out, in_order, shuffled, stream
from spacte_core.data.digits import load_digits
from spacte_core.data.memory import crop_and_flip

CPU = torch.device("cpu")


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
