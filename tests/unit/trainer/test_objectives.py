"""Promise: any base method composes with any teaching, at any precision, without surprises on the device.

The formulas themselves are held by the reference vectors (tests/test_conformance.py).
"""

from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest
import torch
from pydantic import ValidationError
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from torch.utils._python_dispatch import TorchDispatchMode

from spacte_core.models import ModelConfig, MultiHeadNet, Normalization, build, ensemble_of
from spacte_trainer.objectives import (
    BaseMethod,
    CircularTeaching,
    Consistency,
    Drt,
    Gaussian,
    Macer,
    Objective,
    Pgd,
    SeededDraws,
    SmoothAdv,
    SmoothMix,
    Step,
    spacte,
)

PGD = Pgd(steps=2, epsilon=0.5)
BASES: dict[str, BaseMethod] = {
    "gaussian": Gaussian(draws=2),
    "consistency": Consistency(),
    "consistency-adv": Consistency(attack=Pgd(variant="jeong", steps=2, epsilon=0.5)),
    "smoothmix": SmoothMix(steps=2, mix_step=1),
    "smoothadv": SmoothAdv(attack=PGD),
    "macer": Macer(draws=4),
}


def network(heads: int, *, dtype: torch.dtype = torch.float32, seed: int = 0) -> MultiHeadNet:
    torch.manual_seed(seed)
    shape, normalization = (1, 8, 8), Normalization.of("digits")
    config = ModelConfig(arch="digits_cnn", heads=heads, num_classes=4, input_shape=shape, normalization=normalization)
    return build(config).to(dtype)


def ensemble(members: int) -> MultiHeadNet:
    torch.manual_seed(0)
    one = ModelConfig(arch="digits_cnn", num_classes=4, input_shape=(1, 8, 8))
    return build(ensemble_of((one,) * members))


def images(count: int = 6, dtype: torch.dtype = torch.float32) -> tuple[Tensor, Tensor]:
    g = torch.Generator().manual_seed(3)
    return torch.rand(count, 1, 8, 8, generator=g, dtype=dtype), torch.randint(4, (count,), generator=g)


def step(dtype: torch.dtype = torch.float32, seed: int = 0, **changes: object) -> Step:
    draws = SeededDraws(torch.Generator().manual_seed(seed), "cpu", dtype)
    fields = {"epoch": 2, "epochs": 10, "sigma": 0.25, "num_classes": 4, "draws": draws}
    return Step(**(fields | changes))  # type: ignore[arg-type]


def both(name: str) -> list[Objective]:
    return [Objective(base=BASES[name]), spacte(BASES[name], lambda_last=1.0)]


@pytest.mark.parametrize("name", BASES)
def test_total_is_the_sum_of_its_named_parts(name: str) -> None:
    for config in both(name):
        loss = config.loss(network(3), *images(), step())
        named = {key: value for key, value in loss.parts.items() if key not in ("heads", "weight")}
        torch.testing.assert_close(loss.total.detach(), torch.stack(list(named.values())).sum())
        assert loss.parts["heads"].shape == (3,)
        assert not any(value.requires_grad for value in loss.parts.values())
        loss.total.backward()
        assert ("cos" in named) == (config.teaching is not None)


@pytest.mark.parametrize("name", [*BASES, "drt"])
def test_losses_keep_double_precision_and_are_float32_under_bf16_autocast(name: str) -> None:
    objectives = [Objective(base=Drt())] if name == "drt" else both(name)
    for objective in objectives:
        net = ensemble(2).double() if name == "drt" else network(2, dtype=torch.float64)
        loss = objective.loss(net, *images(dtype=torch.float64), step(torch.float64))
        assert {value.dtype for value in (loss.total, *loss.parts.values())} == {torch.float64}
        net.float().to(memory_format=torch.channels_last)
        exact = objective.loss(net, *images(), step())
        with torch.autocast("cpu", dtype=torch.bfloat16):
            loss = objective.loss(net, *images(), step())
        assert loss.total.dtype == torch.float32
        assert loss.total.item() == pytest.approx(exact.total.item(), rel=0.05)
        loss.total.backward()
        assert all(p.grad is not None and p.grad.isfinite().all() for p in net.parameters())


def test_label_smoothing_is_cross_entropy_with_the_smoothed_label() -> None:
    """(1 - e) of it on the class and e / K on every one, written out; without it nothing changes."""
    net, (x_BCHW, y_B), e = network(2).eval(), images(dtype=torch.float32), 0.2
    plain, smoothed = (Gaussian(draws=2, label_smoothing=share).terms(net, x_BCHW, y_B, step()) for share in (0.0, e))
    noise_mBCHW = 0.25 * step().draws.normal((2, *x_BCHW.shape))
    log_p_LmBK = torch.stack([torch.stack(net(x_BCHW + noise)) for noise in noise_mBCHW], dim=1).log_softmax(dim=-1)
    label_BK = (1 - e) * nn.functional.one_hot(y_B, 4) + e / 4
    torch.testing.assert_close(smoothed.per_sample_LB["ce"], -(label_BK * log_p_LmBK).sum(dim=-1).mean(dim=1))
    assert plain.per_sample_LB["ce"] is plain.smoothed_ce_LB
    assert Gaussian() == Gaussian(label_smoothing=0.0)
    # Teachers judge by the plain loss, whatever the labels that are learned.
    assert torch.equal(smoothed.smoothed_ce_LB, plain.smoothed_ce_LB)
    assert not torch.allclose(smoothed.per_sample_LB["ce"], plain.per_sample_LB["ce"])


@pytest.mark.parametrize("share", [-0.1, 1.0, float("nan")])
def test_a_share_of_smoothing_that_is_none_is_refused(share: float) -> None:
    with pytest.raises(ValidationError, match="label_smoothing"):
        Gaussian(label_smoothing=share)


@pytest.mark.parametrize("name", BASES)
def test_the_same_seed_gives_the_same_loss_and_another_another(name: str) -> None:
    objective = Objective(base=BASES[name])
    losses = [objective.loss(network(2), *images(), step(seed=seed)).total.item() for seed in (0, 0, 1)]
    assert losses[0] == losses[1] != losses[2]


@pytest.mark.parametrize("name", ["gaussian", "consistency", "macer"])
def test_independent_heads_average_the_losses_of_single_models(name: str) -> None:
    net = network(3).eval()  # so that the forwards do not share batch statistics
    singles = [MultiHeadNet(net.normalize, net.backbone, [head]).eval() for head in net.heads]
    objective = Objective(base=BASES[name])
    alone = [objective.loss(single, *images(), step()).total for single in singles]
    torch.testing.assert_close(objective.loss(net, *images(), step()).total, torch.stack(alone).mean())


def test_mini_batches_are_consecutive_and_leave_the_rest() -> None:
    objective = Objective(base=Gaussian(draws=3))
    x, y = images(8)
    mini_batches = list(objective.mini_batches(x, y))
    assert [len(pixels) for pixels, _ in mini_batches] == [2, 2, 2]
    assert torch.equal(torch.cat([pixels for pixels, _ in mini_batches]), x[:6])
    assert torch.equal(torch.cat([labels for _, labels in mini_batches]), y[:6])
    assert list(objective.mini_batches(x[:2], y[:2])) == []
    assert len(list(Objective(base=Macer()).mini_batches(x, y))) == 1


class Forwards:
    """Counts the rows of every forward, by mode."""

    def __init__(self, net: nn.Module) -> None:
        self.train: list[int] = []
        self.eval: list[int] = []
        net.register_forward_pre_hook(self.note)

    def note(self, net: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        (self.train if net.training else self.eval).append(len(inputs[0]))


@pytest.mark.parametrize(
    ("name", "train", "attack"),
    [
        ("gaussian", [12], []),
        ("consistency", [12], []),
        ("smoothmix", [12, 12], [12, 12]),
        ("smoothadv", [12], [12, 12]),
        ("macer", [24], []),
    ],
)
def test_all_copies_go_through_one_forward(name: str, train: list[int], attack: list[int]) -> None:
    net = network(2)
    seen = Forwards(net)
    spacte(BASES[name], 1.0).loss(net, *images(), step())
    assert seen.train == train
    assert seen.eval == attack


class NoReadBack(TorchDispatchMode):
    """Fails on operators whose result the host has to wait for."""

    WAITS = ("_local_scalar_dense", "nonzero", "masked_select", "equal", "is_nonzero", "unique")

    def __torch_dispatch__(
        self, func: object, types: object, args: Sequence[object] = (), kwargs: dict[str, object] | None = None
    ) -> object:
        name = str(func).split(".")[1]
        assert name not in self.WAITS, f"{name} would make the host wait for the device"
        return func(*args, **(kwargs or {}))  # type: ignore[operator]


@pytest.mark.parametrize("name", [*BASES, "drt"])
def test_a_step_never_waits_for_the_device(name: str) -> None:
    net = ensemble(2) if name == "drt" else network(2)
    objective = Objective(base=Drt()) if name == "drt" else spacte(BASES[name], 1.0)
    with NoReadBack():
        objective.loss(net, *images(), step()).total.backward()
    with pytest.raises(AssertionError, match="wait"), NoReadBack():
        torch.ones(1).item()


def test_teaching_needs_two_heads_and_two_epochs() -> None:
    objective = spacte(Gaussian(draws=2), 1.0)
    with pytest.raises(ValueError, match="at least two heads"):
        objective.loss(network(1), *images(), step())
    with pytest.raises(ValueError, match="at least two"):
        objective.loss(network(2), *images(), step(epoch=1, epochs=1))


def test_the_published_forms_differ_as_published() -> None:
    assert not Consistency().constant_mean
    assert spacte(Consistency(lbd=3), 1.0).base == Consistency(lbd=3, constant_mean=True)
    assert SmoothMix().only_correct
    assert spacte(SmoothMix(eta=1), 1.0).base == SmoothMix(eta=1, only_correct=False)
    assert spacte(BASES["macer"], 1.0).base == BASES["macer"]


def test_the_entropy_has_a_gradient_in_the_single_model_alone() -> None:
    gradients = []
    for constant in (False, True):
        method = Consistency(lbd=0.0, eta=0.5, constant_mean=constant)
        net = network(2)
        con = method.terms(net, *images(), step()).per_sample_LB["con"]
        assert con.detach().gt(0).all()
        weight = net.get_parameter("heads.0.fc.weight")
        gradients.append(con.requires_grad and torch.autograd.grad(con.sum(), weight)[0])
    assert gradients[0].abs().max() > 0
    assert gradients[1] is False or gradients[1].abs().max() == 0


def test_only_correct_drops_the_mixing_loss_of_the_wrong() -> None:
    x, y = images()
    net = network(1)
    answers = SmoothMix().terms(net, x, y, step())
    everyone = SmoothMix(only_correct=False).terms(network(1), x, y, step())
    mixed, all_mixed = (terms.per_sample_LB["mix"][0] for terms in (answers, everyone))
    kept = mixed != 0
    assert 0 < kept.sum() < len(kept)
    torch.testing.assert_close(mixed[kept], all_mixed[kept])


def saturated(scale: float) -> MultiHeadNet:
    """Two classes, logits +-scale, always right for class 0."""
    last = nn.Linear(64, 4)
    nn.init.zeros_(last.weight)
    last.bias.data = scale * torch.tensor([1.0, -1.0, -2.0, -3.0])
    return MultiHeadNet(nn.Identity(), nn.Flatten(), [last])


@pytest.mark.parametrize("scale", [0.01, 1.0, 30.0, 1e4])
def test_macer_never_lets_a_nan_through(scale: float) -> None:
    net = saturated(scale)
    x, _ = images()
    loss = Objective(base=Macer(draws=4)).loss(net, x, torch.tensor([0, 0, 0, 1, 2, 3]), step())
    loss.total.backward()
    assert loss.total.isfinite()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in net.parameters())


def test_macer_defers_the_robustness_term() -> None:
    objective = Objective(base=Macer(draws=4, defer_epochs=5))
    early, late = (objective.loss(saturated(0.05), *images(), step(epoch=t)) for t in (5, 6))
    assert early.parts["rob"] == 0 < late.parts["rob"]


def test_drt_trains_members_to_be_right_by_a_margin_and_apart() -> None:
    objective = Objective(base=Drt(rho1=1.0, rho2=1.0))
    assert objective.base.double_backward
    net = ensemble(3)
    loss = objective.loss(net, *images(), step())
    assert loss.parts["gd"] > 0 > loss.parts["cm"]
    torch.testing.assert_close(loss.parts["heads"].mean(), loss.parts["ce"])
    loss.total.backward()
    plain = Objective(base=Drt(rho1=1.0, rho2=1.0, squared=False))
    other = plain.loss(ensemble(3), *images(), step())
    assert other.parts["ce"] == loss.parts["ce"]
    assert other.parts["gd"] != loss.parts["gd"]
    with pytest.raises(ValueError, match="two members"):
        objective.loss(ensemble(1), *images(), step())


@pytest.mark.parametrize("name", BASES)
def test_configurations_survive_json(name: str) -> None:
    for config in both(name):
        assert Objective.model_validate_json(config.model_dump_json()) == config


def test_configurations_refuse_what_does_not_exist() -> None:
    with pytest.raises(ValidationError):
        Objective.model_validate({"base": {"name": "no-such-method"}})
    with pytest.raises(ValidationError):
        Objective.model_validate({"base": {"name": "gaussian", "steps": 3}})
    assert Objective.model_validate(
        {"base": {"name": "gaussian"}, "teaching": {"lambda_last": 1}}
    ).teaching == CircularTeaching(lambda_last=1.0)


@pytest.fixture
def one_process_group(tmp_path: Path) -> Iterator[None]:
    """A data-parallel group of one process."""
    torch.distributed.init_process_group("gloo", f"file://{tmp_path}/store", rank=0, world_size=1)
    yield
    torch.distributed.destroy_process_group()


@pytest.mark.usefixtures("one_process_group")
@pytest.mark.parametrize("name", [*BASES, "drt"])
def test_a_data_parallel_wrapper_changes_no_gradient(name: str) -> None:
    objective = Objective(base=Drt()) if name == "drt" else spacte(BASES[name], 1.0)
    nets = [ensemble(2) if name == "drt" else network(2) for _ in range(2)]
    for net in (nets[0], DistributedDataParallel(nets[1])):
        for seed in range(2):
            objective.loss(net, *images(), step(seed=seed)).total.backward()
    for alone, shared in zip(nets[0].parameters(), nets[1].parameters(), strict=True):
        torch.testing.assert_close(shared.grad, alone.grad, rtol=1e-4, atol=1e-6)
