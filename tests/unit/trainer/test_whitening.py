"""Promises of whitening: outputs of the first convolution are uncorrelated on noisy images; runs are reproducible."""

from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from spacte_core.data import load_data
from spacte_core.data.base import ImageData
from spacte_core.data.memory import MemoryData
from spacte_core.models import ModelConfig, MultiHeadNet, Normalization, build
from spacte_trainer.config import ConfigError, TrainConfig, override
from spacte_trainer.loop import Trainer, train
from spacte_trainer.process_group import ProcessGroup
from spacte_trainer.recipes import load_recipe
from spacte_trainer.whitening import whiten

CPU = torch.device("cpu")
SIGMA = 0.25


def images(count: int = 400) -> MemoryData:
    """Smooth images in colours that go together."""
    generator = torch.Generator().manual_seed(0)
    coarse = torch.rand(count, 1, 4, 4, generator=generator) + 0.2 * torch.rand(count, 3, 4, 4, generator=generator)
    x = nn.functional.interpolate(coarse, size=(32, 32), mode="bilinear").div(1.2).mul(255).byte()
    return MemoryData(x, torch.arange(count) % 10, [str(k) for k in range(10)])


def fast(arch: str = "cifar_fast16") -> MultiHeadNet:
    torch.manual_seed(0)
    normalization = Normalization.of("cifar10", "standard")
    shape = (3, 32, 32)
    return build(ModelConfig(arch=arch, heads=1, num_classes=10, input_shape=shape, normalization=normalization))


def first(net: MultiHeadNet) -> nn.Conv2d:
    return next(module for module in net.modules() if isinstance(module, nn.Conv2d))


def outputs(net: MultiHeadNet, data: MemoryData) -> Tensor:
    """[channels, pixels] of the first convolution away from borders, under one noise."""
    conv, x = first(net), data.images_NCHW / 255
    x = x + SIGMA * torch.randn(x.shape, generator=torch.Generator().manual_seed(1))
    y = nn.functional.conv2d(net.normalize(x), conv.weight)
    return y.transpose(0, 1).flatten(1).detach()


def test_its_outputs_are_uncorrelated_and_each_has_its_negative() -> None:
    net, data = fast(), images()
    assert outputs(net, data)[:12].corrcoef().sub(torch.eye(12)).abs().max() > 0.5, "fresh weights do that already"
    norm = first(net).weight.norm()
    whiten(net, data, SIGMA, seed=7)
    y = outputs(net, data)
    assert y[:12].corrcoef().sub(torch.eye(12)).abs().max() < 0.05
    assert torch.equal(y[:12], -y[12:])
    variances = y[:12].var(1)
    assert torch.allclose(variances, variances.sort(descending=True).values, rtol=0.02), "the greatest comes first"
    weight = first(net).weight.flatten(1)
    assert torch.allclose(weight.norm(dim=1), weight.norm(dim=1)[0].expand(24))
    assert torch.allclose(weight.norm(), norm)


def test_with_few_filters_the_greatest_directions_are_there() -> None:
    """A ResNet has 16 filters for patches of 27 values: eight directions and their negatives."""
    net, data = fast("cifar_resnet20"), images()
    whiten(net, data, SIGMA, seed=7)
    weight = first(net).weight.flatten(1)
    assert torch.equal(weight[:8], -weight[8:])
    variances = outputs(net, data).var(1)
    assert variances[0] > 5 * variances[7], "smooth images have one great direction, and noise has none"


def small(**changes: object) -> TrainConfig:
    return override(
        load_recipe("digits-gaussian"), {"epochs": 2, "batch": 512, "validate_every": 0, "whitening": True} | changes
    )


def splits(config: TrainConfig) -> tuple[ImageData, ImageData]:
    return load_data(config.data, "train"), load_data(config.data, "test")


def test_a_run_begins_with_it_and_is_the_same_each_time(tmp_path: Path) -> None:
    config = small()
    data = splits(config)
    begun = [first(Trainer(small(whitening=on), data[0], CPU, ProcessGroup()).net).weight for on in (True, True, False)]
    assert torch.equal(begun[0], begun[1])
    assert not torch.equal(begun[0], begun[2])
    runs = [train(config, tmp_path / name, *data, device=CPU).net.state_dict() for name in ("a", "b")]
    assert all(map(torch.equal, runs[0].values(), runs[1].values()))


@pytest.mark.parametrize(
    "first_layer",
    [
        nn.Identity(),
        nn.Conv2d(1, 8, 3, padding=1),
        nn.Conv2d(3, 9, 3, padding=1, groups=3),
        nn.Conv2d(3, 1, 3, padding=1),
        nn.Conv2d(3, 8, 33, padding=16),
        nn.Conv2d(3, 8, 17, padding=16, dilation=2),
    ],
)
def test_a_network_that_begins_otherwise_is_refused(first_layer: nn.Module) -> None:
    with pytest.raises(ConfigError, match="whitening needs a network that begins with a convolution"):
        whiten(MultiHeadNet(nn.Identity(), first_layer, [nn.Identity()]), images(10), SIGMA, seed=7)


def test_an_ensemble_is_refused_and_its_members_are_not() -> None:
    """Each member normalises images for itself, and trains in a run of its own."""
    config = load_recipe("digits-gaussian").model_dump() | {"whitening": True}
    config["model"] = config["model"] | {"arch": "ensemble", "heads": 2, "members": [config["model"]] * 2}
    with pytest.raises(ValueError, match="whitening is for one network"):
        TrainConfig.model_validate(config)
    assert override(load_recipe("digits-ensemble-gaussian"), {"whitening": True}).members > 1


def test_weights_from_elsewhere_are_not_whitened() -> None:
    with pytest.raises(ConfigError, match="set whitening=false"):
        override(load_recipe("cifar10-fast-consistency-0.25"), {"whitening": True})
