"""Promise: on a GPU a step that is replayed is the step that would have been launched, and a compiled one is close."""

import itertools

import pytest
import torch

from spacte_core.data.base import stream
from spacte_trainer.bench.loops import endless, random_images
from spacte_trainer.config import TrainConfig, override
from spacte_trainer.cuda_graphs import GraphedSteps
from spacte_trainer.loop import Trainer
from spacte_trainer.metrics import LossMeter
from spacte_trainer.objectives import SeededDraws, Step
from spacte_trainer.process_group import ProcessGroup
from spacte_trainer.recipes import load_recipe

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.slow,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no GPU here"),
]

EPOCHS, BATCHES = 2, 6


def config_of(method: str, **changes: object) -> TrainConfig:
    recipe = load_recipe(f"cifar10-resnet20-{method}-0.25")
    return override(recipe, {"precision": "bf16", "compile": False, **changes})


def trained(config: TrainConfig) -> tuple[torch.Tensor, float]:
    """All weights after a few batches of two epochs, and the mean loss."""
    device = torch.device("cuda")
    data = random_images(config)
    run, meter = Trainer(config, data, device, ProcessGroup()), LossMeter()
    batches = list(itertools.islice(endless(config, data, device), BATCHES))
    replays = run.take
    for epoch in range(1, EPOCHS + 1):
        noise = stream(config.seed, epoch=epoch, purpose="noise", device=device)
        step = Step(epoch, config.epochs, config.sigma, config.model.num_classes, SeededDraws(noise, device))
        for batch in batches:
            run.batch(batch, step, 0.05, meter)
    if config.cuda_graphs:
        assert isinstance(replays, GraphedSteps)
        assert replays.graphed is not None, "nothing was captured"
    return torch.cat([p.detach().flatten() for p in run.net.parameters()]), meter.means()["loss"][0]


@pytest.mark.parametrize("compiled", [False, True])
@pytest.mark.parametrize("method", ["spacte-gaussian", "spacte-smoothmix"])
def test_a_replayed_step_is_the_launched_one(method: str, compiled: bool) -> None:
    launched, _ = trained(config_of(method, compile=compiled, cuda_graphs=False))
    replayed, _ = trained(config_of(method, compile=compiled))
    assert torch.equal(launched, replayed)


def test_a_replayed_step_of_muon_is_the_launched_one() -> None:
    muon = {"optimizer.muon": {"lr": 0.05, "momentum": 0.9}, "ema": 0.9}
    launched, _ = trained(config_of("gaussian", cuda_graphs=False, **muon))
    replayed, _ = trained(config_of("gaussian", **muon))
    assert torch.equal(launched, replayed)


def test_compiled_steps_lose_what_the_others_lose() -> None:
    plain, compiled = (trained(config_of("spacte-gaussian", compile=on))[1] for on in (False, True))
    assert compiled == pytest.approx(plain, rel=0.01)


def test_the_network_is_compiled_on_one_gpu_without_being_asked() -> None:
    config = config_of("spacte-gaussian", compile="auto")
    assert Trainer(config, random_images(config), torch.device("cuda"), ProcessGroup()).compiled
