"""Promises of Muon: steps are orthogonal and of the length asked for, the rest is SGD's, and a run can be resumed."""

from pathlib import Path

import pytest
import torch
from tests.interrupted_run import InterruptedRunError, Interruption
from torch import Tensor, nn

from spacte_core.data import load_data
from spacte_core.models import build
from spacte_trainer.config import ConfigError, InitConfig, MuonConfig, TrainConfig, override
from spacte_trainer.loop import Trainer, train
from spacte_trainer.metrics import LossMeter
from spacte_trainer.objectives import SeededDraws, Step
from spacte_trainer.optimizers import Muon, matrices_of, optimizer_of, orthogonalized
from spacte_trainer.process_group import ProcessGroup
from spacte_trainer.recipes import load_recipe
from spacte_trainer.recipes.denoisers import denoising
from spacte_trainer.state import load_state

CPU = torch.device("cpu")
MUON = {"lr": 0.05, "momentum": 0.9, "steps": 5}


def small(recipe: str = "digits-gaussian", muon: object = MUON, **changes: object) -> TrainConfig:
    """A run of seconds with Muon."""
    settings = {"epochs": 2, "batch": 512, "validate_every": 0, "optimizer.muon": muon}
    return override(load_recipe(recipe), settings | changes)


def weight(*shape: int, seed: int = 0) -> nn.Parameter:
    return nn.Parameter(torch.randn(*shape, generator=torch.Generator().manual_seed(seed)))


def muon(w: nn.Parameter, rate: float = 0.1, **options: float) -> Muon:
    return Muon([w], rate, MuonConfig.model_validate({**MUON, **options}), 1.0, torch.float32)


# The step


@pytest.mark.parametrize("shape", [(16, 16), (16, 60), (60, 16)])
def test_singular_values_come_close_to_one_and_vectors_stay(shape: tuple[int, int]) -> None:
    """The result has the singular vectors of the matrix: it is U f(S) V^T with f between .6 and 1.3."""
    m_RC = weight(*shape).detach()
    u_RD, _, vh_DC = torch.linalg.svd(m_RC, full_matrices=False)
    inner_DD = u_RD.T @ orthogonalized(m_RC, 10) @ vh_DC.T
    assert inner_DD.diagonal().min() > 0.6
    assert inner_DD.diagonal().max() < 1.3
    assert (inner_DD - inner_DD.diagonal().diag()).abs().max() < 1e-3


def test_a_gradient_of_zeros_moves_nothing() -> None:
    w = weight(4, 3, 2, 2)
    before, w.grad = w.detach().clone(), torch.zeros_like(w)
    muon(w).step()
    assert torch.allclose(w, before)


@pytest.mark.parametrize("size", [0.0, 1e-9])
def test_a_weight_of_nearly_zero_begins_to_move(size: float) -> None:
    """Its norm is taken as 1e-7."""
    w = nn.Parameter(torch.full((4, 3, 2, 2), size))
    w.grad = weight(4, 3, 2, 2, seed=1).detach()
    before = w.detach().clone()
    muon(w).step()
    assert (w - before).norm().item() == pytest.approx(1e-8, rel=0.1)


def test_a_closure_is_refused() -> None:
    with pytest.raises(ValueError, match="takes no closure"):
        muon(weight(4, 3, 2, 2)).step(lambda: 1.0)


def test_a_step_has_the_relative_length_of_its_rate_and_the_norm_stays() -> None:
    """Two steps, written out in float64, of a convolution's weight in both of its memory formats."""
    gradients = [weight(8, 3, 3, 3, seed=seed).detach() for seed in (1, 2)]
    for memory_format in (torch.contiguous_format, torch.channels_last):
        w = nn.Parameter(weight(8, 3, 3, 3).detach().to(memory_format=memory_format))
        expected, velocity, optimizer = w.detach().double(), torch.zeros(8, 3, 3, 3, dtype=torch.float64), muon(w)
        for g in gradients:
            w.grad = g.clone(memory_format=memory_format)
            optimizer.step()
            velocity = 0.9 * velocity + g
            o = orthogonalized((g + 0.9 * velocity).flatten(1), 5, torch.float64).view_as(expected)
            moved = expected - 0.1 * expected.norm() * o / o.norm()
            expected = moved * expected.norm() / moved.norm()
        assert torch.allclose(w.double(), expected, atol=1e-5)
        assert w.is_contiguous(memory_format=memory_format)


def test_a_step_depends_on_neither_the_scale_of_the_gradient_nor_that_of_the_weight() -> None:
    g, results = weight(8, 3, 3, 3, seed=1).detach(), list[Tensor]()
    for scale_w, scale_g in ((1, 1), (1, 64), (8, 1)):
        w = nn.Parameter(scale_w * weight(8, 3, 3, 3).detach())
        w.grad = scale_g * g
        muon(w).step()
        results.append(w.detach() / scale_w)
    assert torch.allclose(results[0], results[1], atol=1e-5)
    assert torch.allclose(results[0], results[2], atol=1e-5)


# Which weights


@pytest.mark.parametrize("recipe", ["digits-spacte-gaussian", "digits-drt-gaussian", "cifar10-fast-gaussian-0.25"])
def test_convolutions_are_taken_and_what_gives_logits_is_not(recipe: str) -> None:
    """Also in every head and in every member of an ensemble."""
    net = build(load_recipe(recipe).model)
    taken = {id(w) for w in matrices_of(net, 10)}
    assert taken == {id(p) for p in net.parameters() if p.dim() == 4}


def test_the_rest_is_the_sgd_that_it_was(tmp_path: Path) -> None:
    """After a step every weight that Muon leaves equals that of a run without it, and no other does."""
    found: list[dict[str, Tensor]] = []
    for options in (None, MUON):
        config = small(muon=options)
        data = load_data(config.data, "train")
        trainer = Trainer(config, data, CPU, ProcessGroup())
        batch = next(data.batches([torch.arange(64)], CPU))
        step = Step(1, 2, config.sigma, 10, SeededDraws(torch.Generator().manual_seed(0), CPU))
        trainer.batch(batch, step, 0.05, LossMeter())
        found.append({name: p.detach() for name, p in trainer.net.named_parameters()})
    for name, plain in found[0].items():
        assert torch.equal(plain, found[1][name]) == (plain.dim() < 4), name


def test_the_rates_of_both_parts_follow_the_schedule() -> None:
    """Muon's peak is its own; where the loop is at half of SGD's, Muon's steps are half as long."""
    config = small()
    data = load_data(config.data, "train")
    batch = next(data.batches([torch.arange(64)], CPU))
    lengths = []
    for part in (1.0, 0.5):
        trainer = Trainer(config, data, CPU, ProcessGroup())
        (w, *_), step = matrices_of(trainer.net, 10), Step(1, 2, 0.25, 10, SeededDraws(torch.Generator(), CPU))
        before = w.detach().clone()
        trainer.batch(batch, step, part * config.optimizer.lr, LossMeter())
        lengths.append(float((w.detach() - before).norm() / before.norm()))
    assert lengths == pytest.approx([MUON["lr"], MUON["lr"] / 2], rel=0.02)


# Runs


@pytest.mark.parametrize("recipe", ["digits-gaussian", "digits-spacte-gaussian"])
def test_a_resumed_run_ends_in_the_same_weights(recipe: str, tmp_path: Path) -> None:
    """Two epochs at once, and one of two followed by the other: bit for bit, momentum included."""
    config = small(recipe)
    data = load_data(config.data, "train"), load_data(config.data, "test")
    whole = train(config, tmp_path / "whole", *data, device=CPU).net.state_dict()

    with pytest.raises(InterruptedRunError):
        train(config, tmp_path / "cut", *data, device=CPU, callbacks=[Interruption()])
    state = load_state(tmp_path / "cut", config, CPU)
    assert state is not None
    assert set(state.optimizer) == {"sgd", "muon"}
    resumed = train(config, tmp_path / "cut", *data, device=CPU).net.state_dict()
    assert all(torch.equal(whole[name], resumed[name]) for name in whole)


@pytest.mark.slow
def test_it_learns_faster_than_sgd_alone(tmp_path: Path) -> None:
    """Three epochs of the digits: the loss of the last is below that of SGD at the recipe's rate."""
    losses = []
    for name, options in (("sgd", None), ("muon", MUON)):
        config = small(epochs=3, batch=64, muon=options)
        data = load_data(config.data, "train"), load_data(config.data, "test")
        trainer = train(config, tmp_path / name, *data, device=CPU)
        losses.append(trainer.epoch(4, []).means()["loss"][0])
    assert losses[1] < losses[0]


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"lr": 0}, r"optimizer\.muon\.lr cannot be 0"),
        ({"lr": 1}, r"optimizer\.muon\.lr cannot be 1"),
        ({"momentum": 1}, r"optimizer\.muon\.momentum cannot be 1"),
        ({"steps": 0}, r"optimizer\.muon\.steps cannot be 0"),
        ({"beta": 1}, r"There is no setting 'optimizer\.muon\.beta': leave it out"),
    ],
)
def test_bad_settings_are_one_sentence(options: dict[str, float], sentence: str) -> None:
    with pytest.raises(ConfigError, match=sentence):
        small(muon=options)


def test_a_denoiser_keeps_sgd() -> None:
    """Not all of its convolutions have batch normalisation behind them, so that the norms of weights matter."""
    config = denoising("denoiser-dncnn", 0.25, "digits", load_recipe("digits-gaussian").model, InitConfig(model="x"))
    with pytest.raises(ConfigError, match=r"a denoiser has no batch normalisation .*: set optimizer\.muon=null\.$"):
        override(config, {"optimizer.muon": MUON})


def test_a_network_without_convolutions_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"Muon finds no convolution in .*: set optimizer\.muon=null\.$"):
        optimizer_of(small(), nn.Sequential(nn.Flatten(), nn.Linear(64, 10)), 0.1)
