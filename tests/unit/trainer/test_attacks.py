"""Promise: attacks stay in their box and radius, raise the loss, and leave the network as it was."""

import pytest
import torch
from torch import Tensor, nn

from spacte_core.models import MultiHeadNet
from spacte_trainer.attacks import Pgd, ball, pgd_jeong, pgd_salman, smoothmix
from spacte_trainer.smoothing import draw_logits, smoothed_ce


def flat_net(heads: int = 2, classes: int = 3) -> MultiHeadNet:
    torch.manual_seed(0)
    body = nn.Sequential(nn.Conv2d(1, 4, 3, padding=1), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten())
    return MultiHeadNet(nn.Identity(), body, [nn.Linear(64, classes) for _ in range(heads)])


@pytest.fixture
def net() -> MultiHeadNet:
    return flat_net()


@pytest.fixture
def batch() -> tuple[Tensor, Tensor, Tensor]:
    """Pixels, labels and two scaled noises a sample."""
    g = torch.Generator().manual_seed(1)
    x_BCHW = torch.rand(6, 1, 4, 4, generator=g)
    y_B = torch.randint(3, (6,), generator=g)
    return x_BCHW, y_B, 0.25 * torch.randn(2, 6, 1, 4, 4, generator=g)


def loss(net: MultiHeadNet, x_BCHW: Tensor, y_B: Tensor, noise_mBCHW: Tensor) -> float:
    net.eval()
    with torch.no_grad():
        return smoothed_ce(draw_logits(net, x_BCHW + noise_mBCHW), y_B).mean().item()


def lengths(d_BCHW: Tensor) -> Tensor:
    return d_BCHW.flatten(1).norm(dim=1)


def test_ball_shortens_only_what_is_too_long() -> None:
    d = torch.tensor([[3.0, 4.0], [0.3, 0.4], [0.0, 0.0]], dtype=torch.float64).reshape(3, 1, 1, 2)
    inside = ball(d, 1.0)
    assert torch.equal(inside[1:], d[1:])
    torch.testing.assert_close(inside[0], d[0] / (5 + 1e-7))
    assert lengths(inside)[0] < 1


@pytest.mark.parametrize("variant", ["salman", "jeong"])
def test_pgd_raises_the_loss_within_box_and_radius(
    net: MultiHeadNet, batch: tuple[Tensor, Tensor, Tensor], variant: str
) -> None:
    x, y, noise = batch
    config = Pgd.model_validate({"variant": variant, "steps": 5, "epsilon": 0.5, "warmup_epochs": 10})
    full = config.adversary(net, x, y, noise, 1.0, epoch=10)
    half = config.adversary(net, x, y, noise, 1.0, epoch=5)
    assert loss(net, full, y, noise) > loss(net, half, y, noise) > loss(net, x, y, noise)
    assert lengths(full - x).max() <= 0.5 + 1e-5
    assert lengths(half - x).max() <= 0.25 + 1e-5
    assert full.min() >= -1e-6
    assert full.max() <= 1 + 1e-6
    assert not full.requires_grad


def test_smoothmix_takes_the_clean_side_at_its_step(net: MultiHeadNet, batch: tuple[Tensor, Tensor, Tensor]) -> None:
    x, y, noise = batch

    def attack(mix_step: int, init_radius: float = 9.0) -> tuple[Tensor, Tensor]:
        return smoothmix(net, x, y, noise, steps=3, alpha=0.3, mix_step=mix_step, init_radius=init_radius)

    start, adv = attack(0)
    torch.testing.assert_close(start, x)
    torch.testing.assert_close(attack(3)[0], x)
    one, _ = attack(1)
    torch.testing.assert_close(one, smoothmix(net, x, y, noise, steps=1, alpha=0.3, mix_step=0, init_radius=0)[1])
    assert lengths(attack(2, init_radius=0.1)[0] - x).max() <= 0.1 + 1e-6
    assert loss(net, adv, y, noise) > loss(net, x, y, noise)
    assert not adv.requires_grad


def test_smoothmix_radius_keeps_the_adversary_near(net: MultiHeadNet, batch: tuple[Tensor, Tensor, Tensor]) -> None:
    x, y, noise = batch
    _, adv = smoothmix(net, x, y, noise, steps=4, alpha=1.0, mix_step=0, init_radius=0, radius=0.2)
    assert lengths(adv - x).max() <= 0.2 + 1e-6


def test_without_a_gradient_salman_takes_the_spare_direction_and_the_others_stay() -> None:
    net = flat_net(heads=1)
    for p in net.parameters():
        nn.init.zeros_(p)
    x, y = torch.full((2, 1, 4, 4), 0.5), torch.tensor([0, 1])
    noise, spare = torch.zeros(2, 2, 1, 4, 4), torch.randn(2, 1, 4, 4)
    adv = pgd_salman(net, x, y, noise, steps=1, epsilon=0.01, spare_BCHW=spare)
    torch.testing.assert_close(adv - x, ball(0.02 * spare, 0.01))
    assert torch.equal(pgd_jeong(net, x, y, noise, steps=2, epsilon=1.0), x)
    assert torch.equal(smoothmix(net, x, y, noise, steps=2, alpha=1.0, mix_step=0, init_radius=0)[1], x)


def test_an_attack_trains_nothing_and_restores_the_mode_even_after_an_error(
    net: MultiHeadNet, batch: tuple[Tensor, Tensor, Tensor]
) -> None:
    x, y, noise = batch
    net.train()
    before = {key: value.clone() for key, value in net.state_dict().items()}
    pgd_jeong(net, x, y, noise, steps=2, epsilon=0.5)
    assert all(torch.equal(value, before[key]) for key, value in net.state_dict().items())
    assert all(p.grad is None and p.requires_grad for p in net.parameters())
    assert net.training
    with pytest.raises(RuntimeError):
        pgd_jeong(net, x, y, noise[:, :, :, :2], steps=2, epsilon=0.5)
    assert all(module.training for module in net.modules())
    assert all(p.requires_grad for p in net.parameters())


def test_epsilon_reads_fractions() -> None:
    assert Pgd.model_validate({"steps": 1, "epsilon": "255/256"}).epsilon == 255 / 256
