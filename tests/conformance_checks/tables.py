"""Schedules, splits, counts and votes: functions without a gradient."""

import re
from collections.abc import Iterator

import torch

from spacte_core.models import ModelConfig, build
from spacte_core.models.ensemble import sum_logits
from spacte_trainer.objectives import Gaussian, Objective, split
from spacte_trainer.schedules import threshold

from .case import Case, Comparison, checks


@checks("lambda_schedule")
def _lambda_schedule(case: Case) -> Iterator[Comparison]:
    for i, row in enumerate(case.document["cases"]):
        epochs = row["total_epochs"]
        got = [threshold(t, epochs, row["num_classes"], row["lbd_last"]) for t in range(1, epochs + 1)]
        wanted = torch.tensor(row["lambda_by_epoch"], dtype=torch.float64)
        yield f"case {i}", torch.tensor(got, dtype=torch.float64), wanted


@checks("minibatch_split")
def _minibatch_split(case: Case) -> Iterator[Comparison]:
    for i, row in enumerate(case.document["cases"]):
        batch, m = row["batch"], row["m"]
        ranges = [[start, stop] for start, stop in split(batch, m)]
        wanted = [pair or [0, 0] for pair in row["minibatches"]]
        yield f"case {i}", torch.tensor(ranges), torch.tensor(wanted)
        yield f"case {i} unused", batch - sum(stop - start for start, stop in ranges), row["unused"]
        objective = Objective(base=Gaussian(draws=m))
        samples = torch.arange(batch)
        pieces = [piece.tolist() for piece, _ in objective.mini_batches(samples, samples)]
        yield f"case {i} pieces", len(pieces), sum(bool(pair) for pair in row["minibatches"])
        for piece, pair in zip(pieces, filter(None, row["minibatches"]), strict=True):
            yield f"case {i} piece", piece, list(range(*pair))


@checks("parameter_counts")
def _parameter_counts(case: Case) -> Iterator[Comparison]:
    for name, counts in case.document["counts"].items():
        match = re.fullmatch(r"R(\d+)_(?:L(\d+)|single)", name)
        if match is None:
            yield name, False, True
            continue
        with torch.device("meta"):
            net = build(model_config(int(match[1]), int(match[2] or 1)))
        shared = sum(p.numel() for p in net.backbone.parameters())
        heads = [sum(p.numel() for p in head.parameters()) for head in net.heads]
        got = {
            "total": sum(p.numel() for p in net.parameters()),
            "per_head": heads[-1],
            "shared": shared,
            "buffers_keys": len(net.state_dict()),
            "state_dict_keys": len(net.state_dict()),
        }
        for key, wanted in counts.items():
            yield f"{name} {key}", got[key], wanted


@checks("ensemble_votes")
def _ensemble_votes(case: Case) -> Iterator[Comparison]:
    if case.whole("scheme") != 0:
        raise NotImplementedError("only the sum of logits votes")
    logits = list(case["logits"])
    yield "single_pred", torch.stack(logits).argmax(dim=2), case["single_pred"]
    prefixes = [sum_logits(logits[: j + 1]).argmax(dim=1) for j in range(len(logits))]
    yield "prefix_ensemble_pred", torch.stack(prefixes), case["prefix_ensemble_pred"]
    yield "multihead_pred", sum_logits(logits).argmax(dim=1), case["multihead_pred"]


def model_config(depth: int, heads: int) -> ModelConfig:
    """The reference networks: R50 is the ImageNet one, every other depth a CIFAR-10 one."""
    imagenet = depth == 50
    return ModelConfig(
        arch="imagenet_resnet50" if imagenet else f"cifar_resnet{depth}",
        heads=heads,
        num_classes=1000 if imagenet else 10,
        input_shape=(3, 224, 224) if imagenet else (3, 32, 32),
    )
