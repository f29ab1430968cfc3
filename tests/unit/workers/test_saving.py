"""Promise: any module becomes a checkpoint in one call, or one sentence says what it should return."""

import threading
from collections import namedtuple
from dataclasses import dataclass
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import nn

from spacte_core.checkpoint import CheckpointError, load_checkpoint
from spacte_core.models import Normalization
from spacte_core.preprocessing import Preprocessing
from spacte_workers import EngineError, LocalCertifier, LogitsOf, save_model
from spacte_workers.images import from_array
from spacte_workers.shards import NoiseSource, Phase, Shard

SHAPE = (3, 8, 8)


class Returning(nn.Module):
    """A classifier of 4 classes that returns its logits in one way or another."""

    def __init__(self, output, features=192):
        super().__init__()
        torch.manual_seed(0)
        self.f, self.output = nn.Linear(features, 4), output

    def forward(self, x):
        return self.output(self.f(x.flatten(1)))


Output = namedtuple("Output", "logits hidden")


@dataclass
class Answer:
    logits: torch.Tensor


TAKEN = {
    "tensor": lambda z: z,
    "list of heads": lambda z: [z, 2 * z],
    "tuple of one": lambda z: (z,),
    "dict": lambda z: {"loss": None, "logits": z},
    "object": lambda z: SimpleNamespace(logits=z),
    "named tuple": lambda z: Output(z, None),
    "dataclass": Answer,
}
REFUSED = {
    "dict without": lambda z: {"scores": z},
    "nothing": lambda z: None,
    "text": lambda z: "cat",
    "empty list": lambda z: [],
    "list of lists": lambda z: [[z]],
    "nested dict": lambda z: {"head": {"logits": z}},
    "logits and auxiliary logits": lambda z: (z, 2 * z),
    "loss and logits": lambda z: (z.sum(), z),
    "object without": lambda z: SimpleNamespace(scores=z),
}


@pytest.mark.parametrize("kind", TAKEN)
def test_a_module_is_saved_and_votes_as_before(kind, tmp_path):
    module = Returning(TAKEN[kind])
    names = ("cat", "dog", "emu", "fox")
    version = save_model(module, tmp_path / "m", sigma=0.25, input_shape=SHAPE, class_names=names)
    checkpoint = load_checkpoint(tmp_path / "m")
    assert (checkpoint.version, checkpoint.config.class_names, checkpoint.config.sigma) == (version, names, 0.25)
    image = np.random.default_rng(0).integers(0, 256, SHAPE, dtype=np.uint8)
    saved = LocalCertifier(tmp_path / "m", device="cpu")
    bare = LocalCertifier(LogitsOf(module), sigma=0.25, num_classes=4, input_shape=SHAPE, device="cpu")
    same = (
        from_array(image, input_shape=SHAPE),
        Shard(NoiseSource("0a" * 16, 0, 0.25, "grid"), Phase.ESTIMATION, 0, 200),
    )
    assert bare.engine.votes(*same).counts == saved.engine.votes(*same).counts
    assert saved.predict(image, n=200).label_name in (*names, None)


@pytest.mark.parametrize("kind", REFUSED)
def test_what_is_no_logits_is_one_sentence(kind, tmp_path):
    part = {"dict without": "scores", "nested dict": "head", "object without": "scores", "loss and logits": "of 2"}
    with pytest.raises(CheckpointError, match=f"{part.get(kind, '')}.*return the logits tensor") as caught:
        save_model(Returning(REFUSED[kind]), tmp_path / "m", sigma=0.25, input_shape=SHAPE)
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "m").exists()


@pytest.mark.parametrize("kind", [*REFUSED, "dict", "object", "dataclass", "named tuple"])
def test_a_certifier_names_what_to_return_and_the_adapter(kind):
    with pytest.raises(EngineError, match=r"return the logits tensor, e\.g\. output\.logits.*LogitsOf"):
        LocalCertifier(Returning((TAKEN | REFUSED)[kind]), sigma=0.25, num_classes=4, input_shape=SHAPE)


@pytest.mark.parametrize("heads", [lambda z: [z.sum(), z], lambda z: [z, z[:, :3]]])
def test_heads_of_other_shapes_are_one_sentence(heads, tmp_path):
    with pytest.raises(EngineError, match="The module fails on a batch"):
        LocalCertifier(Returning(heads), sigma=0.25, num_classes=4, input_shape=SHAPE)
    with pytest.raises(CheckpointError, match="let it return one"):
        save_model(Returning(heads), tmp_path / "m", sigma=0.25, input_shape=SHAPE)


def refuse_small(z):
    raise AssertionError("Input height is not 224.\nSecond line.")


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        (lambda z: {}["weights"], r"fails on a batch of shape .*KeyError: 'weights'.*correct input_shape"),
        (lambda z: 1 // 0, "ZeroDivisionError"),
        (refuse_small, "Input height is not 224. Second line"),
        (lambda z: z.to(torch.complex64), "type complex64: return dense floating-point"),
        (lambda z: z > 0, "type bool: return dense"),
        (lambda z: z.to_sparse(), "type sparse_coo: return dense"),
    ],
)
def test_whatever_a_module_raises_and_numbers_without_an_order_are_one_sentence(answer, words, tmp_path):
    with pytest.raises(EngineError, match=words) as caught:
        LocalCertifier(Returning(answer), sigma=0.25, num_classes=4, input_shape=SHAPE)
    with pytest.raises(CheckpointError, match=words):
        save_model(Returning(answer), tmp_path / "m", sigma=0.25, input_shape=SHAPE)
    assert "\n" not in str(caught.value)


def with_lock():
    module = Returning(TAKEN["tensor"])
    module.lock = threading.Lock()
    return module


@pytest.mark.parametrize(
    ("module", "words"),
    [
        (nn.Sequential(nn.Flatten(), nn.LazyLinear(4)), "lazy layers.*run it on one batch"),
        (nn.Sequential(nn.Flatten(), nn.Linear(192, 4, device="meta")), "meta device.*load them"),
        (with_lock(), "cannot be copied .*_thread.lock.*keep locks"),
        (Returning, "A type is no torch.nn.Module"),
        ({"weight": torch.zeros(4, 192)}, "A dict is no torch.nn.Module"),
    ],
)
def test_what_cannot_be_copied_is_one_sentence(module, words, tmp_path):
    with pytest.raises(EngineError, match=words):
        LocalCertifier(module, sigma=0.25, num_classes=4, input_shape=SHAPE)
    with pytest.raises(CheckpointError, match=words):
        save_model(module, tmp_path / "m", sigma=0.25, input_shape=SHAPE)


@pytest.mark.filterwarnings("ignore:`torch.nn.utils.weight_norm` is deprecated")
def test_a_network_with_old_weight_norm_is_taken_after_it_was_used():
    module = nn.Sequential(nn.Flatten(), nn.utils.weight_norm(nn.Linear(192, 4)))
    module(torch.rand(2, *SHAPE)).sum().backward()
    before = module[1].weight
    LocalCertifier(module, sigma=0.25, num_classes=4, input_shape=SHAPE)
    assert module[1].weight is before


def test_mean_and_sd_go_before_the_module(tmp_path):
    module = Returning(TAKEN["tensor"])
    before = Normalization(kind="standard", mean=(0.5, 0.4, 0.3), sd=(0.2, 0.3, 0.4))
    save_model(
        module,
        tmp_path / "m",
        sigma=0.25,
        input_shape=SHAPE,
        normalization=before,
        preprocessing=Preprocessing(resize=9),
    )
    x = torch.rand(7, *SHAPE)
    checkpoint = load_checkpoint(tmp_path / "m")
    assert torch.equal(checkpoint.net(x)[0], module(before.build()(x)))
    assert checkpoint.config.preprocessing == Preprocessing(resize=9)


class Branching(nn.Module):
    def forward(self, x):
        return x.flatten(1)[:, :4] if x.sum() > 0 else x.flatten(1)[:, 4:8]


class FixedBatch(nn.Module):
    def forward(self, x):
        return x.reshape(5, -1)[:, :4]


class Normed(nn.Module):
    def __init__(self, **options):
        super().__init__()
        self.norm, self.out = nn.BatchNorm2d(3, **options), nn.Linear(192, 4)

    def forward(self, x):
        return self.out(self.norm(x).flatten(1))


class Chance(nn.Module):
    def forward(self, x):
        z = x.flatten(1)[:, :4]
        return z + torch.rand_like(z)


@pytest.mark.parametrize(
    ("module", "options", "words"),
    [
        (Branching(), {}, "cannot be exported.*Python branches"),
        (FixedBatch(), {}, "cannot be exported|batches of 2 and 3|fails on a batch"),
        (Chance(), {}, "answers otherwise.*not on chance"),
        (Normed(track_running_stats=False), {}, "in another batch: .*track_running_stats=True"),
        (Returning(TAKEN["tensor"], 100), {}, "correct input_shape or the module"),
        (Returning(lambda z: z / 0), {}, "NaN or infinite"),
        (Returning(lambda z: z[:, :1]), {}, "does not return logits"),
        (Returning(TAKEN["tensor"]), {"class_names": ["one"]}, "4 classes"),
        (Returning(TAKEN["tensor"]), {"sigma": -1}, "sigma"),
        (Returning(TAKEN["tensor"]), {"input_shape": (8, 8)}, "channels, height, width"),
        (Returning(TAKEN["tensor"]), {"normalization": Normalization(kind="center", mean=(0.5,))}, "3 channels"),
    ],
)
def test_what_cannot_be_saved_is_one_sentence(module, options, words, tmp_path):
    with pytest.raises(CheckpointError, match=words) as caught:
        save_model(module, tmp_path / "m", **({"sigma": 0.25, "input_shape": SHAPE} | options))
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "m").exists()
