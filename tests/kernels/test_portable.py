"""Promise: portable kernels vote the same on every target, so that a cluster may have machines of several kinds."""

from dataclasses import replace

import pytest
import torch
from tests.convolution_chains import EMULATED
from tests.small_engine import SHAPE, SOURCE, an_image
from torch import nn

from spacte_core.forms import logits_of, plain
from spacte_core.kernels import inference
from spacte_core.kernels.cpu import targets
from spacte_core.kernels.cpu.chain import ChainKernel
from spacte_core.kernels.cpu.targets import TARGETS, VARIABLE
from spacte_core.models import ModelConfig, build
from spacte_workers.engine import Engine, EngineError
from spacte_workers.engine.calibration import calibration_rows, noisy_rows
from spacte_workers.engine.decomposition import decompose
from spacte_workers.engine.errors import NoSuchKernelsError
from spacte_workers.engine.forms import forms
from spacte_workers.shards import Phase, Shard

pytestmark = pytest.mark.slow

NAMES = [target.name for target in TARGETS if target.library(torch.uint8) is not None]
needs_targets = pytest.mark.skipif(len(NAMES) < 2, reason="one target for chains here, or none")


@pytest.fixture(scope="module")
def network():
    torch.manual_seed(3)
    return build(ModelConfig(arch="digits_cnn", heads=3, num_classes=10, input_shape=(1, 8, 8))).eval()


def engine_of(network, **options):
    options = {"precision": "auto", "portable": True, "min_agreement": 0.5, "device": "cpu"} | options
    return Engine(network, input_shape=(1, 8, 8), num_classes=10, **options)


def counts(engine):
    return engine.votes(an_image(shape=(1, 8, 8)), Shard(SOURCE, Phase.ESTIMATION, 0, 2_000)).counts


@needs_targets
def test_machines_of_several_kinds_vote_alike(network, monkeypatch):
    first = engine_of(network)
    form, _, fit = first.kernels.partition("/")
    assert (form, len(fit), first.precision) == ("portable", 12, "int8")
    rows = calibration_rows((1, 8, 8), 0.3).compared
    with torch.inference_mode():
        logits_NK = logits_of(first.form, rows)
        for name in NAMES:
            monkeypatch.setenv(VARIABLE, name)
            other = engine_of(network, kernels=first.kernels, portable=False, precision="int8", batch=32)
            assert other.kernels == first.kernels
            assert torch.equal(logits_of(other.form, rows), logits_NK)
            assert counts(other) == counts(first)


@needs_targets
def test_a_machine_with_matrix_units_votes_alike(network, monkeypatch):
    if EMULATED.library(torch.uint8) is None:
        pytest.skip("the stand-in for AMX does not compile here")
    wide = build(ModelConfig(arch="cifar_resnet20", heads=2, num_classes=10, input_shape=(3, 8, 8))).eval()
    rows = calibration_rows((3, 8, 8), 0.25).compared[:64]
    monkeypatch.delenv(VARIABLE, raising=False)
    found = []
    for known in (TARGETS[1:], (replace(EMULATED, form="amx"),)):
        monkeypatch.setattr("spacte_core.kernels.cpu.targets.TARGETS", known)
        engine = Engine(wide, input_shape=(3, 8, 8), num_classes=10, portable=True, min_agreement=0, batch=16)
        with torch.inference_mode():
            found.append((engine.kernels, logits_of(engine.form, rows)))
    assert found[0][0] == found[1][0]
    assert torch.equal(found[0][1], found[1][1])


@needs_targets
def test_a_residual_network_has_the_same_logits_by_winograd_and_directly(monkeypatch):
    """As each target counts its layers: without products of bytes most are Winograd's, at this size none with them."""
    network = build(ModelConfig(arch="cifar_resnet20", heads=1, num_classes=10, input_shape=(3, 8, 8))).eval()
    rows, found = noisy_rows((3, 8, 8), 0.25, 40), {}
    vectors = [target for target in TARGETS if target.unit is not None and target.name in NAMES]
    monkeypatch.delenv(VARIABLE, raising=False)
    with torch.inference_mode():
        classifier = decompose(network, rows[:2], 10)
        for target in vectors:
            monkeypatch.setattr(targets, "TARGETS", (target,))
            monkeypatch.setattr(inference, "TARGETS", (target,))
            (form,) = forms(classifier, "int8", 16, rows, only="portable")
            modules = [module for part in (form.trunk, *form.heads) for module in part.modules()]
            layers = [layer for module in modules if isinstance(module, ChainKernel) for layer in module.layers]
            assert (sum(layer.shape for layer in layers) > 10) == (target.name in ("avx512bw", "avx2"))
            found[target.name] = logits_of(form, rows)
    first, *others = found.values()
    assert first.std() > 0
    assert all(torch.equal(first, logits_NK) for logits_NK in others)


@needs_targets
def test_what_one_target_cannot_compute_another_does(network, monkeypatch):
    """Matrix units take channels by sixteens; a network with others is still portable to a machine that has them."""
    asked = []

    def only_the_last(classifier, graphs, batch, fit, target, **options):
        asked.append(target.name)
        return made(classifier, graphs, batch, fit, target, **options) if target.name == NAMES[-1] else None

    made = inference.int8_form
    monkeypatch.setattr(inference, "int8_form", only_the_last)
    monkeypatch.delenv(VARIABLE, raising=False)
    assert engine_of(network, batch=16).form.name == "portable"
    assert asked[: len(NAMES)] == NAMES


@needs_targets
def test_what_cannot_be_portable_is_said(network, monkeypatch):
    dilated = nn.Sequential(
        nn.Conv2d(2, 16, 3, padding=2, dilation=2), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(16, 4)
    )
    with pytest.raises(EngineError, match="leave `portable` out"):
        Engine(dilated, input_shape=SHAPE, num_classes=4, portable=True, device="cpu")
    with pytest.raises(EngineError, match="leave `portable` out"):
        engine_of(network, precision="fp32")
    first = engine_of(network)
    monkeypatch.setenv("SPACTE_KERNELS", "-chain")
    with pytest.raises(NoSuchKernelsError):
        engine_of(network, kernels=first.kernels, portable=False, precision="int8")


def test_a_processor_without_a_target_has_the_library_s_forms(monkeypatch):
    """Of another architecture, or older than AVX2."""
    monkeypatch.delenv(VARIABLE, raising=False)
    monkeypatch.setattr(targets, "cpu_flags", frozenset)
    monkeypatch.setattr("spacte_core.kernels.cpu.winograd_layers.compile_library", lambda *_, **__: None)
    torch.manual_seed(0)
    net = nn.Sequential(
        nn.Conv2d(1, 16, 3, padding=1), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(16, 4)
    )
    engine = Engine(net, input_shape=(1, 8, 8), num_classes=4, device="cpu", min_agreement=0.5)
    assert engine.form.name in ("onednn", "folded", "plain")
    rows = noisy_rows((1, 8, 8), 0.25, 64)
    with torch.inference_mode():
        reference = logits_of(plain(decompose(net.eval(), rows[:2], 4), 16), rows)
        assert (logits_of(engine.form, rows) - reference).abs().max() < 0.05
