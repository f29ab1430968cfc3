"""Promise: the networks are the published ones, in any depth and head count, and rebuild from their configuration."""

import math
from typing import Any

import pytest
import torch
from pydantic import ValidationError
from torch import nn

from spacte_core.models import ModelConfig, MultiHeadNet, Normalization, build, ensemble_of
from spacte_core.models.ensemble import sum_logits
from spacte_core.models.multihead import frozen_eval
from spacte_trainer.circular_teaching import cosine_loss


def config(arch: str = "cifar_resnet8", heads: int = 3, **changes: Any) -> ModelConfig:
    imagenet = arch.startswith("imagenet")
    fields = {
        "arch": arch,
        "heads": heads,
        "num_classes": 1000 if imagenet else 10,
        "input_shape": (3, 224, 224) if imagenet else (3, 32, 32),
        "normalization": Normalization.of("imagenet" if imagenet else "cifar10"),
    }
    return ModelConfig.model_validate(fields | changes)


def count(module: nn.Module) -> int:
    return sum(p.numel() for p in module.parameters())


@pytest.mark.parametrize(
    ("arch", "heads", "shared", "a_head", "total"),
    [
        ("cifar_resnet20", 1, 66_128, 206_346, 272_474),
        ("cifar_resnet20", 5, 66_128, 206_346, 1_097_858),
        ("cifar_resnet110", 1, 414_608, 1_316_106, 1_730_714),
        ("cifar_resnet110", 5, 414_608, 1_316_106, 6_995_138),
        ("imagenet_resnet50", 1, 8_543_296, 17_013_736, 25_557_032),
        ("imagenet_resnet50", 5, 8_543_296, 17_013_736, 93_611_976),
    ],
)
def test_parameter_counts_are_the_published_ones(arch: str, heads: int, shared: int, a_head: int, total: int) -> None:
    with torch.device("meta"):
        net = build(config(arch, heads))
    assert count(net.backbone) == shared
    assert {count(head) for head in net.heads} == {a_head}
    assert count(net) == total


@pytest.mark.parametrize(
    ("arch", "heads", "expected"),
    [
        ("cifar_resnet20", 3, 0.41),
        ("cifar_resnet20", 5, 1.35),
        ("cifar_resnet110", 3, 0.345),
        ("cifar_resnet110", 5, 1.15),
        pytest.param("imagenet_resnet50", 5, 1.41, marks=pytest.mark.slow),
    ],
)
def test_fresh_heads_have_the_published_cosine_loss(arch: str, heads: int, expected: float) -> None:
    torch.manual_seed(0)
    assert cosine_loss(build(config(arch, heads)).heads).item() == pytest.approx(expected, rel=0.03)


def test_initialisation_is_the_published_one() -> None:
    torch.manual_seed(0)
    net = build(config("cifar_resnet20"))
    for layer in net.modules():
        if isinstance(layer, nn.Conv2d):
            kh, kw = layer.kernel_size
            expected = math.sqrt(2 / (kh * kw * layer.out_channels))
            spread = expected * 5 / math.sqrt(2 * layer.weight.numel())
            assert layer.weight.std().item() == pytest.approx(expected, abs=spread)
        if isinstance(layer, nn.BatchNorm2d):
            assert (layer.eps, layer.momentum) == (1e-5, 0.1)
            assert layer.weight.eq(1).all()
            assert layer.bias.eq(0).all()
        if isinstance(layer, nn.Linear):
            bound = 1 / math.sqrt(layer.in_features)
            assert layer.weight.abs().max() <= bound
            assert layer.weight.abs().max() > 0.9 * bound
    first, second = (head.state_dict() for head in net.heads[:2])
    assert not torch.equal(first["fc.weight"], second["fc.weight"])


@pytest.mark.parametrize(
    ("changes", "shape"),
    [
        ({"heads": 1}, (3, 32, 32)),
        ({"heads": 7, "num_classes": 4}, (3, 32, 32)),
        ({"arch": "cifar_resnet14", "input_shape": (1, 28, 28), "normalization": Normalization()}, (1, 28, 28)),
        ({"arch": "cifar_fast16", "heads": 2}, (3, 32, 32)),
        ({"arch": "digits_cnn", "input_shape": (1, 8, 8), "normalization": Normalization.of("digits")}, (1, 8, 8)),
        pytest.param({"arch": "imagenet_resnet50", "heads": 2}, (3, 224, 224), marks=pytest.mark.slow),
    ],
)
def test_forward_gives_logits_of_every_head(changes: dict[str, Any], shape: tuple[int, int, int]) -> None:
    cfg = config(**changes)
    logits = build(cfg).eval()(torch.rand(2, *shape))
    assert [z.shape for z in logits] == [(2, cfg.num_classes)] * cfg.heads


def test_configuration_survives_json_and_rebuilds_the_network() -> None:
    cfg = ensemble_of((config(heads=1), config("cifar_resnet14", heads=2)))
    again = ModelConfig.model_validate_json(cfg.model_dump_json())
    assert again == cfg
    rebuilt = build(again)
    rebuilt.load_state_dict(build(cfg).state_dict())


@pytest.mark.parametrize("arch", ["cifar_resnet21", "cifar_resnet2", "cifar_fast6", "imagenet_resnet18", "vgg"])
def test_what_cannot_be_built_is_said(arch: str) -> None:
    with pytest.raises(
        ValueError, match=arch.removeprefix("cifar_resnet").removeprefix("imagenet_resnet").removeprefix("cifar_fast")
    ):
        build(config(arch))


def test_normalisation_is_neither_trained_nor_saved() -> None:
    net = build(config())
    assert not any(key.startswith("normalize") for key in net.state_dict())
    assert not list(net.normalize.parameters())


def test_normalisation_is_exact_in_double_precision_whatever_came_before() -> None:
    x = torch.rand(2, 3, 4, 4, dtype=torch.float64)
    mean = torch.tensor([0.4914, 0.4822, 0.4465], dtype=torch.float64)[:, None, None]
    sd = torch.tensor([0.2023, 0.1994, 0.2010], dtype=torch.float64)[:, None, None]
    layer = Normalization.of("cifar10").build()
    for module in (layer.double(), layer.half().double(), layer.to(torch.bfloat16).float().double()):
        assert torch.equal(module(x), (x - mean) / sd)


def test_kinds_of_normalisation() -> None:
    x = torch.rand(2, 3, 4, 4)
    centred = Normalization.of("imagenet", "center")
    assert torch.equal(Normalization.of("imagenet", "none").build()(x), x)
    assert torch.allclose(centred.build()(x) + torch.tensor([0.485, 0.456, 0.406])[:, None, None], x)
    with pytest.raises(ValueError, match="cifar10"):
        Normalization.of("no-such-set")


def test_ensemble_adds_the_logits_of_members_with_their_own_normalisation() -> None:
    members = (config(heads=1), config(heads=2, normalization=Normalization()))
    net = build(ensemble_of(members)).eval()
    x = torch.rand(3, 3, 8, 8)
    singles = [build(cfg).eval() for cfg in members]
    for head, single in zip(net.heads, singles, strict=True):
        head.get_submodule("net").load_state_dict(single.state_dict())
    expected = [sum_logits(single(x)) for single in singles]
    for z, wanted in zip(net(x), expected, strict=True):
        assert torch.allclose(z, wanted)
    own = torch.stack([x, 1 - x])
    assert torch.allclose(net(own)[0], expected[0])
    assert torch.allclose(net(own)[1], sum_logits(singles[1](1 - x)))


def test_ensemble_members_must_fit_together() -> None:
    with pytest.raises(ValueError, match="same classes"):
        ensemble_of((config(), config(num_classes=7)))
    with pytest.raises(ValueError, match="same classes"):
        ensemble_of(())
    with pytest.raises(ValidationError, match="one head a member"):
        config("ensemble", heads=2, members=(config(),))
    with pytest.raises(ValidationError, match="nothing else has members"):
        config(members=(config(), config(), config()))


def test_frozen_eval_restores_modes_and_flags_after_an_error() -> None:
    net = build(config())
    net.train()
    net.heads[1].eval()
    next(net.heads[2].parameters()).requires_grad_(False)
    modes = [module.training for module in net.modules()]
    flags = [p.requires_grad for p in net.parameters()]

    def fail(frozen: nn.Module) -> None:
        assert not any(module.training for module in frozen.modules())
        assert not any(p.requires_grad for p in frozen.parameters())
        raise KeyError

    with pytest.raises(KeyError), frozen_eval(net) as frozen:
        fail(frozen)
    assert [module.training for module in net.modules()] == modes
    assert [p.requires_grad for p in net.parameters()] == flags


def test_digits_network_is_small() -> None:
    cfg = config("digits_cnn", 5, input_shape=(1, 8, 8), normalization=Normalization.of("digits"))
    macs = multiply_adds(build(cfg).eval(), torch.zeros(1, 1, 8, 8))
    assert 2e6 < macs < 3.5e6


def test_the_fast_network_is_as_wide_as_it_says() -> None:
    image = torch.zeros(1, 3, 32, 32)
    one, five = (build(config("cifar_fast256", heads)).eval() for heads in (1, 5))
    assert multiply_adds(one, image) == pytest.approx(118e6, rel=0.01)
    assert multiply_adds(five, image) == pytest.approx(255e6, rel=0.01)
    assert sum(p.numel() for p in five.parameters()) == pytest.approx(6.7e6, rel=0.01)


def multiply_adds(net: MultiHeadNet, x: torch.Tensor) -> int:
    total = 0

    def add(layer: nn.Module, _inputs: object, out: torch.Tensor) -> None:
        nonlocal total
        total += layer.get_parameter("weight").numel() * out[0, 0].numel()

    for layer in net.modules():
        if isinstance(layer, nn.Conv2d | nn.Linear):
            layer.register_forward_hook(add)
    net(x)
    return total
