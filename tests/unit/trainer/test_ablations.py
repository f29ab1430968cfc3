"""Promise: what the paper's ablations vary is a setting, whose default is what is published."""

import math
import subprocess
import sys
import textwrap

import pytest
import torch
from pydantic import ValidationError

from spacte_core.models import ModelConfig, build
from spacte_trainer.circular_teaching import cosine_loss, teacher_losses, weights
from spacte_trainer.config import ConfigError, override
from spacte_trainer.objectives import CircularTeaching, Gaussian, Objective, SeededDraws, Step
from spacte_trainer.recipes import load_recipe
from spacte_trainer.schedules import threshold

HEADS, LAMBDA = 3, 1.2


def draws(seed=0):
    return SeededDraws(torch.Generator().manual_seed(seed), "cpu")


@pytest.fixture(scope="module")
def net():
    torch.manual_seed(0)
    return build(ModelConfig(arch="digits_cnn", heads=HEADS, num_classes=10, input_shape=(1, 8, 8)))


def loss(net, *, epoch=2, over_heads="mean", **settings):
    teaching = CircularTeaching(lambda_last=LAMBDA, **settings) if settings.pop("taught", True) else None
    objective = Objective(base=Gaussian(draws=1), teaching=teaching, over_heads=over_heads)
    images, labels = torch.rand(16, 1, 8, 8, generator=torch.Generator().manual_seed(1)), torch.arange(16) % 10
    net.train()
    return objective.loss(net, images, labels, Step(epoch, 4, 0.25, 10, draws()))


@pytest.mark.parametrize(
    ("pace", "levels"),
    [("linear", [math.log(10), (math.log(10) + LAMBDA) / 2, LAMBDA]), ("fixed", [LAMBDA] * 3), ("off", [math.inf] * 3)],
)
def test_paces(pace, levels):
    assert [threshold(epoch, 3, 10, LAMBDA, pace) for epoch in (1, 2, 3)] == pytest.approx(levels)


def test_teachers():
    loss_LB = torch.arange(12.0).view(3, 4)
    assert torch.equal(teacher_losses(loss_LB, "previous", draws()), loss_LB[[2, 0, 1]])
    assert torch.equal(teacher_losses(loss_LB, "next", draws()), loss_LB[[1, 2, 0]])
    assert torch.equal(teacher_losses(loss_LB, "self", draws()), loss_LB)


@pytest.mark.parametrize("heads", [2, 3, 5])
def test_a_random_teacher_is_another_head_and_any_of_them(heads):
    of_head_LB = torch.arange(float(heads))[:, None].expand(heads, 4_000)
    teacher_LB = teacher_losses(of_head_LB, "random", draws())
    assert not (teacher_LB == of_head_LB).any()
    for head in range(heads):
        share = torch.bincount(teacher_LB[head].long(), minlength=heads) / 4_000
        assert share[torch.arange(heads) != head].sub(1 / (heads - 1)).abs().max() < 0.05


def test_whose_loss_the_weight_of_a_hard_sample_comes_from():
    own_LB, teacher_LB = torch.tensor([[3.0, 1.0], [2.0, 4.0]]), torch.tensor([[2.0, 4.0], [3.0, 1.0]])
    level = 1.5
    of_own, of_teacher = weights(own_LB, level), weights(teacher_LB, level, teacher_LB)
    hard = lambda value: (1 + math.exp(-level)) / (1 + math.exp(value - level))  # noqa: E731
    assert of_own[0].tolist() == pytest.approx([hard(3.0), hard(1.0)])
    assert of_teacher[0].tolist() == pytest.approx([hard(2.0), hard(4.0)])


def test_the_parts_of_a_loss(net):
    published, no_cosine, half = loss(net), loss(net, cosine=0.0), loss(net, cosine=0.5)
    cos = cosine_loss(net.heads)
    assert torch.allclose(published.total - no_cosine.total, cos)
    assert torch.allclose(half.total - no_cosine.total, cos / 2)
    assert "cos" not in no_cosine.parts
    unpaced, alone = loss(net, cosine=0.0, pace="off"), loss(net, taught=False)
    assert unpaced.parts["weight"] == 1
    assert torch.allclose(unpaced.total, alone.total)
    assert loss(net).parts["weight"] < 1


@pytest.mark.parametrize("taught", [True, False])
def test_the_sum_over_heads_moves_each_head_by_its_whole_gradient(net, taught):
    def gradient(over_heads):
        net.zero_grad()
        options = {"cosine": 0.0} if taught else {}
        loss(net, over_heads=over_heads, taught=taught, **options).total.backward()
        return torch.cat([parameter.grad.flatten() for parameter in net.heads[0].parameters()])

    assert torch.allclose(gradient("sum"), HEADS * gradient("mean"), rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("taught", [True, False])
def test_heads_are_reported_with_their_own_losses_under_the_sum_too(net, taught):
    summed, mean = (loss(net, over_heads=over_heads, taught=taught) for over_heads in ("sum", "mean"))
    assert torch.allclose(summed.parts["heads"], mean.parts["heads"])
    assert torch.allclose(summed.parts["ce"], mean.parts["heads"].sum()), "what enters the total is the sum"


@pytest.mark.parametrize("teacher", ["previous", "next", "self", "random"])
@pytest.mark.parametrize("hard_weight", ["own", "teacher"])
def test_every_combination_has_a_finite_loss(net, teacher, hard_weight):
    total = loss(net, teacher=teacher, hard_weight=hard_weight).total
    assert total.isfinite()
    assert total.requires_grad


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf, 0, -1, 21, "much"])
def test_a_threshold_that_weights_cannot_express_is_refused_in_one_sentence(value):
    with pytest.raises(ConfigError, match=r"objective\.teaching\.lambda_last") as error:
        override(load_recipe("digits-spacte-gaussian", 0.25), {"objective.teaching.lambda_last": value})
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("value", [math.nan, math.inf, 0, -0.5, 11])
def test_a_noise_level_that_nobody_trains_with_is_refused(value):
    with pytest.raises(ConfigError, match="sigma"):
        override(load_recipe("digits-gaussian", 0.25), {"sigma": value})


def test_one_head_is_trained_without_a_teacher():
    config = load_recipe("digits-spacte-gaussian", 0.25)
    with pytest.raises(ConfigError, match=r"objective\.teaching=null"):
        override(config, {"model.heads": 1})
    single = override(config, {"model.heads": 1, "objective.teaching": None})
    assert (single.model.heads, single.objective.teaching) == (1, None)


def test_an_unknown_method_names_those_there_are():
    with pytest.raises(ValidationError, match="there is no method of that name: choose from gaussian, consistency"):
        Objective.model_validate({"base": {"name": "telepathy"}})
    with pytest.raises(ConfigError, match=r"objective\.base\.draws"):
        override(load_recipe("digits-gaussian", 0.25), {"objective.base.draws": 0})


@pytest.mark.slow
def test_methods_come_from_a_package_of_ones_own(tmp_path):
    (tmp_path / "mine.py").write_text(
        textwrap.dedent("""
            from typing import Literal
            from spacte_trainer.objectives import Gaussian

            class Halved(Gaussian):
                name: Literal["halved"] = "halved"

                def terms(self, net, x_BCHW, y_B, step):
                    return super().terms(net, x_BCHW, y_B, step).scaled(0.5)
        """)
    )
    about = tmp_path / "mine-1.0.dist-info"
    about.mkdir()
    (about / "METADATA").write_text("Metadata-Version: 2.1\nName: mine\nVersion: 1.0\n")
    (about / "entry_points.txt").write_text("[spacte.methods]\nhalved = mine:Halved\nnone = mine:Literal\n")
    program = textwrap.dedent("""
        from spacte_trainer.config import TrainConfig, override
        from spacte_trainer.recipes import load_recipe
        config = override(load_recipe("digits-gaussian", 0.25), {"objective.base": {"name": "halved", "draws": 1}})
        again = TrainConfig.model_validate_json(config.model_dump_json())
        assert again == config and type(again.objective.base).__name__ == "Halved"
        try:
            override(config, {"objective.base": {"name": "none"}})
        except Exception as error:
            print(error)
    """)
    done = subprocess.run(
        [sys.executable, "-c", program],
        env={"PATH": "/usr/bin:/bin", "PYTHONPATH": str(tmp_path)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "mine:Literal is no subclass of spacte_trainer.objectives.Method" in done.stdout
