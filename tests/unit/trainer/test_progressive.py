"""Promises of growing crops: sizes as set, noise untouched, runs reproducible and resumable, misfits refused."""

from pathlib import Path
from typing import cast

import pytest
import torch
from torch import Tensor

from spacte_core.data import load_data
from spacte_core.data.base import ImageData
from spacte_core.models import MultiHeadNet
from spacte_trainer.callbacks import Callback
from spacte_trainer.config import ConfigError, TrainConfig, override
from spacte_trainer.loop import Trainer, train
from spacte_trainer.metrics import LossMeter
from spacte_trainer.objectives import Step
from spacte_trainer.process_group import ProcessGroup
from spacte_trainer.progressive import check_crops, crop
from spacte_trainer.recipes import load_recipe
from spacte_trainer.schedules import GrowingCrops

CPU = torch.device("cpu")


def small(**changes: object) -> TrainConfig:
    return override(
        load_recipe("digits-gaussian"),
        {"epochs": 4, "batch": 512, "validate_every": 0, "progressive": {"side": 4, "until": 0.5}} | changes,
    )


def splits(config: TrainConfig) -> tuple[ImageData, ImageData]:
    return load_data(config.data, "train"), load_data(config.data, "test")


@pytest.mark.parametrize(
    ("side", "until", "sides"),
    [
        (20, 0.8, [20, 20, 20, 24, 24, 24, 28, 28, 32, 32]),
        (24, 0.6, [24, 24, 24, 28, 28, 28, 32, 32, 32, 32]),
        (31, 0.1, [31] + [32] * 9),
        (30, 0.95, [30] * 9 + [32]),  # whole images in the last epoch at the latest
    ],
)
def test_crops_grow_by_steps_to_the_whole_image(side: int, until: float, sides: list[int]) -> None:
    crops = GrowingCrops(side=side, until=until)
    assert [crops.at(epoch, 10, 32) for epoch in range(1, 11)] == sides


def test_there_are_few_sizes_however_large_the_images() -> None:
    assert list(GrowingCrops(side=128).sizes(224)) == [128, 152, 176, 200]
    assert list(GrowingCrops(side=9).sizes(32)) == [9, 17, 25]


def test_rounding_does_not_put_a_size_off() -> None:
    assert GrowingCrops(side=28, until=0.56).at(15, 25, 32) == 32  # 14 of 25 epochs are .56 of them


def test_a_run_of_one_epoch_has_its_images_whole() -> None:
    assert GrowingCrops(side=20).at(1, 1, 32) == 32


def test_a_crop_is_one_place_of_all_images_and_every_place_comes() -> None:
    x_BCHW = torch.arange(2 * 3 * 6 * 9).reshape(2, 3, 6, 9)
    generator = torch.Generator().manual_seed(0)
    places = set[tuple[int, int]]()
    for _ in range(200):
        y_BCHW = crop(x_BCHW, 4, generator)
        row, column = divmod(int(y_BCHW[0, 0, 0, 0]), 9)
        assert torch.equal(y_BCHW, x_BCHW[:, :, row : row + 4, column : column + 4])
        places.add((row, column))
    assert places == {(row, column) for row in range(3) for column in range(6)}


def test_a_side_that_is_short_already_stays() -> None:
    assert crop(torch.zeros(1, 1, 3, 9), 4, torch.Generator()).shape == (1, 1, 3, 4)


class Seen(Trainer):
    """Notes the sizes and the pixels that a run trains on."""

    pieces: list[Tensor]

    def step(self, x_BCHW: Tensor, y_B: Tensor, step: Step):
        self.pieces.append(x_BCHW)
        return super().step(x_BCHW, y_B, step)


def test_a_run_begins_with_crops_of_its_images_and_ends_with_them_whole() -> None:
    config = small()
    data = splits(config)[0]
    trainer = Seen(config, data, CPU, ProcessGroup())
    trainer.pieces = []
    for epoch in range(1, 5):
        trainer.epoch(epoch, [])
    sides = [piece.shape[2] for piece in trainer.pieces]
    assert sides == sorted(sides)
    assert set(sides) == {4, 8}
    assert sides.count(4) == sides.count(8)
    (first,) = data.batches([torch.arange(len(data))], CPU)
    everywhere = first.x_BCHW.unfold(2, 4, 1).unfold(3, 4, 1).reshape(-1, 16)
    assert set(map(tuple, trainer.pieces[0].reshape(-1, 16).tolist())) <= set(map(tuple, everywhere.tolist()))


def test_a_run_is_the_same_each_time_and_after_an_interruption(tmp_path: Path) -> None:
    config = small()
    data = splits(config)

    class Interrupted(Exception):  # noqa: N818
        pass

    class Stop(Callback):
        def on_batch_end(self, epoch: int, done: int, total: int, meter: LossMeter) -> None:
            if (epoch, done) == (2, 2):
                raise Interrupted

    whole = train(config, tmp_path / "whole", *data, device=CPU).net.state_dict()
    with pytest.raises(Interrupted):
        train(config, tmp_path / "cut", *data, device=CPU, callbacks=[Stop()])
    resumed = train(config, tmp_path / "cut", *data, device=CPU).net.state_dict()
    assert all(map(torch.equal, whole.values(), resumed.values()))
    plain = train(small(progressive=None), tmp_path / "plain", *data, device=CPU).net.state_dict()
    assert not all(map(torch.equal, whole.values(), plain.values()))


def test_whole_images_are_drawn_and_noised_as_without_it() -> None:
    """What follows the crops is the plain run's: the place of a crop has a stream of its own."""
    pieces: list[list[Tensor]] = []
    for progressive in (None, {"side": 4, "until": 0.5}):
        config = small(progressive=progressive)
        trainer = Seen(config, splits(config)[0], CPU, ProcessGroup())
        trainer.pieces = []
        trainer.epoch(4, [])
        pieces.append(trainer.pieces)
    assert all(map(torch.equal, *pieces))


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"progressive": {"side": 8}}, "progressive.side is 8, and the images are 8 x 8"),
        ({"progressive": {"side": 1}, "model.arch": "cifar_fast16"}, "does not take crops of 1 pixels"),
    ],
)
def test_crops_that_cannot_be_are_refused(changes: dict[str, object], why: str) -> None:
    config = small(**changes)
    with pytest.raises(ConfigError, match=why):
        Trainer(config, splits(config)[0], CPU, ProcessGroup())


def test_every_size_of_the_crops_is_tried() -> None:
    class Odd(torch.nn.Module):
        def forward(self, x_BCHW: Tensor) -> Tensor:
            return {4: x_BCHW}[x_BCHW.shape[2] % 8]  # it takes 4 and 12, and not 8

    model = small().model.model_copy(update={"input_shape": (1, 16, 16)})
    with pytest.raises(ConfigError, match="crops of 8 pixels") as error:
        check_crops(cast("MultiHeadNet", Odd()), model, GrowingCrops(side=4))
    assert "\n" not in str(error.value)


def test_settings_out_of_range_are_refused() -> None:
    for bad in ({"side": 0}, {"side": 4, "until": 1}, {"side": 4, "until": 0}, {"side": 4, "to": 8}):
        with pytest.raises(ConfigError, match="progressive"):
            small(progressive=bad)


def test_the_network_is_as_before_it_was_tried() -> None:
    """The look at a smaller image leaves mode, statistics and weights alone."""
    config = small()
    data = splits(config)[0]
    tried, plain = (Trainer(small(progressive=p), data, CPU, ProcessGroup()) for p in ({"side": 4}, None))
    assert tried.net.training
    assert all(map(torch.equal, tried.net.state_dict().values(), plain.net.state_dict().values()))
