"""Whole networks: a state dict in a published layout is rebuilt by the file's rule, imported, and run."""

import hashlib
import math
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from spacte_core.importers import import_checkpoint, reference_name
from spacte_core.models import build
from spacte_trainer.circular_teaching import cosine_loss

from .case import Case, Comparison, checks
from .tables import model_config


@checks("network_forward")
def _network_forward(case: Case) -> Iterator[Comparison]:
    spec = case.document
    keys = _keys(spec)
    listed = "\n".join(f"{key} {shape}" for key, shape in keys)
    yield "keys_sha256", hashlib.sha256(listed.encode()).hexdigest() == spec["keys_sha256"], True
    state = {key: _fill(keys, i, spec["seed"]) for i, (key, _) in enumerate(keys)}
    for key, spot in spec.get("spot_checks", {}).items():
        value = state[key].double()
        yield f"{key} sum", value.sum(), torch.tensor(float(spot["sum"]), dtype=torch.float64)
        first = torch.tensor(spot["first"], dtype=torch.float64)
        yield f"{key} first", value.flatten()[: len(first)], first
    multihead = spec["kind"] == "mhead"
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "weights.pth"
        torch.save({"state_dict": state}, file)
        net, _ = import_checkpoint(file, "spacte" if multihead else "cohen", sigma=0.25)
    trainable = sum(p.numel() for p in net.parameters())
    yield "trainable_parameters", trainable, spec["trainable_parameters"]

    x_BCHW = _input(spec)
    with torch.no_grad():
        yield "logits_eval", _stacked(net(x_BCHW), multihead), case["logits_eval"]
        if "cosine_loss" in case:
            yield "cosine_loss", cosine_loss(net.heads), case["cosine_loss"]
        if "logits_train" in case:
            yield "logits_train", _stacked(net.train()(x_BCHW), multihead), case["logits_train"]
    for statistic in ("mean", "var"):
        name = f"stem_bn_running_{statistic}_after_train"
        if name in case:
            yield name, net.get_buffer(f"backbone.bn1.running_{statistic}"), case[name]


def _keys(spec: dict[str, Any]) -> list[tuple[str, list[int]]]:
    """The reference state dict's keys and shapes, in its order: as listed, or from the pattern."""
    if "keys" in spec:
        return [(key, shape) for key, shape in spec["keys"]]
    depth, multihead = int(spec["arch"].removeprefix("R")), spec["kind"] == "mhead"
    config = model_config(depth, spec["num_heads"] if multihead else 1)
    prefix = "1.module." if config.arch.startswith("imagenet") else "1."
    with torch.device("meta"):
        state = build(config).state_dict()
    return [
        (prefix + reference_name(key, config, multihead=multihead), list(value.shape)) for key, value in state.items()
    ]


def _fill(keys: list[tuple[str, list[int]]], i: int, seed: int) -> Tensor:
    """The i-th weight by the rule of the files."""
    key, shape = keys[i]
    stem, _, kind = key.rpartition(".")
    if kind == "num_batches_tracked":
        return torch.zeros((), dtype=torch.int64)
    u = np.random.Generator(np.random.PCG64(np.random.SeedSequence([seed, i]))).random(shape)
    s = 2 * u - 1
    if kind == "running_var":
        value = 0.5 + u
    elif kind in ("running_mean", "bias"):
        value = 0.1 * s
    elif any(other == f"{stem}.running_mean" for other, _ in keys):
        value = 0.25 + 0.5 * u
    elif len(shape) == 4:
        out, _, kh, kw = shape
        value = s * math.sqrt(3) * math.sqrt(2 / (kh * kw * out))
    else:
        value = s / math.sqrt(shape[1])
    return torch.from_numpy(np.asarray(value))


def _input(spec: dict[str, Any]) -> Tensor:
    generator = np.random.Generator(np.random.PCG64(np.random.SeedSequence([spec["seed"], 1_000_000])))
    shade = generator.random((spec["batch"], spec["image"][0], 1, 1))
    return torch.from_numpy(0.5 * shade + 0.5 * generator.random((spec["batch"], *spec["image"])))


def _stacked(logits: list[Tensor], multihead: bool) -> Tensor:
    return torch.stack(logits) if multihead else logits[0]
