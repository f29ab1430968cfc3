"""One process of a group of two, run by test_distributed.py: python group_process.py RANK STORE OUT CHECK."""

import sys
from datetime import timedelta
from pathlib import Path

import torch
import torch.distributed as dist

from spacte_core.data import Batch, load_data
from spacte_trainer.config import TrainConfig, override
from spacte_trainer.distributed import DistributedProcessGroup, SyncBatchNorm2d
from spacte_trainer.loop import Trainer
from spacte_trainer.metrics import LossMeter
from spacte_trainer.objectives import SeededDraws, Step
from spacte_trainer.process_group import ProcessGroup
from spacte_trainer.recipes import load_recipe

CPU = torch.device("cpu")


def whole_batch() -> tuple[torch.Tensor, torch.Tensor]:
    """Features [8, 3, 4, 4] and what the loss weights them with."""
    generator = torch.Generator().manual_seed(0)
    return torch.randn(8, 3, 4, 4, generator=generator), torch.randn(8, 3, 4, 4, generator=generator)


def batch_norm(rank: int) -> dict[str, torch.Tensor]:
    """This rank's half through the synchronised layer: output, gradients and running statistics."""
    x, weight = (half.chunk(2)[rank].clone() for half in whole_batch())
    layer = SyncBatchNorm2d(3)
    x.requires_grad_()
    y = layer(x)
    (y * weight).sum().backward()
    assert x.grad is not None
    assert layer.weight.grad is not None
    assert layer.running_mean is not None
    assert layer.running_var is not None
    return {
        "y": y.detach(),
        "x_grad": x.grad,
        "weight_grad": layer.weight.grad,
        "running_mean": layer.running_mean,
        "running_var": layer.running_var,
    }


def quiet(muon: bool) -> TrainConfig:
    """SPACTE-Gaussian with next to no noise, so that what the ranks draw does not matter; one step a batch."""
    options = {"lr": 0.05, "momentum": 0.9, "steps": 3} if muon else None
    changes = {"model.heads": 2, "objective.base.draws": 1, "optimizer.muon": options}
    return override(load_recipe("digits-spacte-gaussian"), changes).model_copy(update={"sigma": 1e-7})


def steps(rank: int, group: ProcessGroup, check: str = "steps") -> dict[str, torch.Tensor]:
    """Three steps on this member's share of 64 digits: of SGD, or (check `muon`) with Muon for convolutions."""
    config = quiet(check == "muon")
    data = load_data(config.data, "train")
    trainer = Trainer(config, data, CPU, group)
    (batch,) = data.batches([torch.arange(64)], CPU)
    x_BCHW, y_B = (half.chunk(group.size)[rank] for half in (batch.x_BCHW, batch.y_B))
    step = Step(20, 40, config.sigma, 10, SeededDraws(torch.Generator().manual_seed(rank), CPU))
    meter = LossMeter()
    trainer.model.train()
    for _ in range(3):
        trainer.batch(Batch(x_BCHW, y_B), step, 0.05, meter)
    losses = group.mean(meter.means())
    weights = {key: value.clone() for key, value in trainer.net.state_dict().items()}
    return {**weights, "loss": torch.tensor(losses["loss"]), "heads": torch.tensor(losses["heads"])}


def main() -> None:
    """Join the other process, do the check that is asked for and save what came of it."""
    rank, store, out, check = int(sys.argv[1]), sys.argv[2], Path(sys.argv[3]), sys.argv[4]
    torch.set_num_threads(1)
    dist.init_process_group(
        "gloo", init_method=f"file://{store}", rank=rank, world_size=2, timeout=timedelta(seconds=120)
    )
    found = batch_norm(rank) if check == "batch_norm" else steps(rank, DistributedProcessGroup(CPU), check)
    torch.save(found, out)
    dist.destroy_process_group()


if __name__ == "__main__":
    main()
