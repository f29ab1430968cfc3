"""Promise of the cost: multiply-adds that agree with what was counted by hand."""

import subprocess
import sys

import pytest
import torch
from torch import nn

from spacte_core.checkpoint import load_checkpoint
from spacte_core.flops import macs_of, macs_per_sample
from spacte_core.models import ModelConfig, MultiHeadNet, build
from spacte_core.models.multihead import Head
from spacte_trainer.recipes import load_recipe
from spacte_workers import save_model


def test_a_convolution_and_a_linear_layer_by_hand():
    head = Head(nn.Conv2d(3, 4, 3, stride=2, padding=1, bias=False), 4, 10)
    net = MultiHeadNet(nn.Identity(), nn.Identity(), [head, head])
    one = (4 * 4 * 4) * (3 * 9) + 4 * 10
    assert macs_per_sample(net, (3, 8, 8)) == 2 * one


@pytest.mark.parametrize(("depth", "expected"), [(20, 93e6), (110, 589e6)])
def test_five_head_resnets_cost_what_the_ceilings_say(depth: int, expected: float):
    shape = (3, 32, 32)
    model = ModelConfig(arch=f"cifar_resnet{depth}", heads=5, num_classes=10, input_shape=shape)
    assert macs_per_sample(build(model), shape) == pytest.approx(expected, rel=0.02)


def test_an_ensemble_costs_its_members_and_nothing_is_left_behind():
    single = load_recipe("digits-gaussian").model
    ensemble = load_recipe("digits-drt-gaussian").model
    net = build(ensemble)
    before = {key: value.clone() for key, value in net.state_dict().items()}
    assert macs_per_sample(net, (1, 8, 8)) == 3 * macs_per_sample(build(single), (1, 8, 8))
    assert net.training
    assert all(torch.equal(value, before[key]) for key, value in net.state_dict().items())
    assert not any(module._forward_hooks for module in net.modules())


def test_an_exported_program_costs_what_its_module_does(tmp_path):
    net = nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(4 * 36, 10))
    save_model(net, tmp_path / "mine", sigma=0.25, input_shape=(1, 8, 8))
    assert macs_per_sample(load_checkpoint(tmp_path / "mine").net, (1, 8, 8)) == 36 * 9 * 4 + 4 * 36 * 10


def test_counting_leaves_the_compiler_out():
    """Its import takes longer than everything else that a load of a small network does."""
    command = (
        "import sys, torch; from spacte_core.flops import macs_of; "
        "print(macs_of(torch.nn.Linear(3, 2), torch.zeros(1, 3)), 'torch._dynamo' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", command], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["6", "False"]


def test_a_compiled_module_costs_what_it_costs_by_itself():
    net = nn.Sequential(nn.Conv2d(1, 4, 3), nn.Flatten(), nn.Linear(4 * 36, 10))
    assert macs_of(torch.compile(net, backend="eager"), torch.zeros(1, 1, 8, 8)) == 36 * 9 * 4 + 4 * 36 * 10
