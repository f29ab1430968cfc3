"""Promise: the best target of the machine is taken, or the one asked for; without any, other forms are there."""

import time
from dataclasses import replace

import pytest
import torch
from tests.convolution_chains import AMX, names_here

from spacte_core.forms import logits_of, plain
from spacte_core.hardware import computes_bf16
from spacte_core.kernels.cpu import chain as chain_module
from spacte_core.kernels.cpu import targets
from spacte_core.kernels.cpu.targets import VARIABLE, CpuTargetError, target_for
from spacte_workers.engine import forms as build
from spacte_workers.engine import peak_rates as ceilings
from spacte_workers.engine.self_checks import is_one_function

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("two_threads")]


@pytest.mark.parametrize(("precision", "error"), [("bf16", 0.01), ("int8", 0.05)])
def test_the_form_of_each_target_is_one_function_and_comes_first(network, monkeypatch, precision, error):
    network, rows = network
    names = names_here(torch.uint8 if precision == "int8" else torch.bfloat16)
    with torch.inference_mode():
        reference = logits_of(plain(network, 16), rows)
        spread = (reference - reference.mean(0)).square().mean().sqrt()
        for name in names:
            monkeypatch.setenv(VARIABLE, name)
            form = next(build.forms(network, precision, 16, rows))
            assert form.name == ("amx" if name == "amx" else f"chain_{name}")
            assert is_one_function(form, rows)
            assert (logits_of(form, rows) - reference).square().mean().sqrt() < error * spread


def test_the_best_target_is_taken_unless_another_is_asked_for(network, monkeypatch):
    network, rows = network
    monkeypatch.delenv(VARIABLE, raising=False)
    names = names_here(torch.uint8)
    if len(names) < 2:
        pytest.skip("one target here, or none")
    assert target_for(torch.uint8).name == names[0]
    assert target_for(torch.uint8, f"chain_{names[-1]}").name == names[-1]
    with torch.inference_mode():
        assert [form.name for form in build.forms(network, "int8", 16, rows)] == [target_for(torch.uint8).form, "int8"]
        assert next(build.forms(network, "int8", 16, rows, only=f"chain_{names[-1]}")).name == f"chain_{names[-1]}"
    monkeypatch.setenv(VARIABLE, names[-1])
    assert target_for(torch.uint8).name == names[-1]
    assert target_for(torch.uint8, target_for(torch.uint8).form).name == names[-1]
    assert target_for(torch.uint8, "chain_avx512" if names[-1] != "avx512" else "amx") is None


@pytest.mark.parametrize("name", ["abacus", "chain_avx2"])
def test_a_target_that_is_not_here_is_refused(monkeypatch, name):
    monkeypatch.setenv(VARIABLE, name)
    with pytest.raises(CpuTargetError, match=f"SPACTE_CPU is '{name}'"):
        target_for(torch.uint8)


@pytest.mark.parametrize(("precision", "names"), [("bf16", ["onednn", "folded"]), ("int8", ["int8"])])
def test_without_the_kernel_the_other_forms_are_there(network, monkeypatch, precision, names):
    network, rows = network
    if precision == "bf16" and not computes_bf16(rows.device):
        names = ["folded"]  # oneDNN has none either
    monkeypatch.setattr(targets, "compile_library", lambda *_, **__: None)
    with torch.inference_mode():
        assert [form.name for form in build.forms(network, precision, 16, rows)] == names


def test_a_system_that_refuses_the_tiles(monkeypatch, caplog):
    class Refusing:
        def spacte_amx_allowed(self):
            return 0

    monkeypatch.setattr(targets, "compile_library", lambda *_, **__: Refusing())
    assert replace(AMX, needs={torch.uint8: frozenset()}).library(torch.uint8) is None
    assert "signal stack" in caplog.text


@pytest.mark.slow
@pytest.mark.parametrize(("precision", "dtype"), [("int8", torch.uint8), ("bf16", torch.bfloat16)])
def test_no_product_of_the_library_is_faster_than_the_bare_ones(precision, dtype, monkeypatch):
    bare = chain_module.bare_products(dtype)
    if bare is None:
        pytest.skip("no target for such maps here")
    if targets.forced() not in (None, names_here(dtype)[0]):
        pytest.skip("the library is not held to the target that is forced")
    torch.set_num_threads(1)
    monkeypatch.setattr(ceilings.time, "perf_counter", time.thread_time)  # others may be at work
    bare = chain_module.bare_products(dtype)  # on one thread
    device = torch.device("cpu")
    best = max(ceilings._rate(bare, bare(), device) for _ in range(5))
    assert 1e10 < best < 1e14
    with monkeypatch.context() as patched:
        patched.setattr(chain_module, "bare_products", lambda _: None)
        library = ceilings.multiply_adds_per_second(precision, device)
    assert library < 1.1 * best
    # Others that share the core may take half of it for as long as one look lasts.
    assert max(ceilings.multiply_adds_per_second(precision, device) for _ in range(3)) > 0.5 * best
