"""Promise: products of factors in bfloat16 give convolutions and their gradients in training, to about a hundredth."""

from typing import cast

import pytest
import torch
from tests.convolution_gradients import error, exact_gradients
from tests.winograd_cases import (
    SHAPES,
    a_missing_number_stays_in_its_image,
    case,
    found,
    unwanted_gradients_are_left_out,
)
from torch import Tensor

from spacte_core import hardware
from spacte_core.kernels.cpu import winograd_layers, winograd_training
from spacte_core.kernels.cpu.winograd_layers import halves, library
from spacte_core.kernels.cpu.winograd_training import Convolution, factors

BOUND = 0.014
"""Relative error in the 2-norm; the largest seen is .0112. Rounded maps alone have .002."""


@pytest.fixture
def compiled(monkeypatch: pytest.MonkeyPatch) -> None:
    """Such products wherever there are instructions for them, whether or not they are the faster ones."""
    kernel = library()
    if kernel is None or not kernel.spacte_winograd_halves():
        pytest.skip("no AVX-512 BF16, or no compiler")
    monkeypatch.setattr(winograd_training, "halves", lambda: True)


def halved(name: str) -> tuple[Tensor, Tensor, Tensor]:
    """A case with maps in bfloat16."""
    x, weight, dy = case(name)
    return x.detach().bfloat16().requires_grad_(), weight, dy.bfloat16()


@pytest.mark.usefixtures("compiled")
@pytest.mark.parametrize("name", SHAPES)
def test_it_is_the_convolution_and_its_gradients(name: str) -> None:
    inputs = halved(name)
    ours = found(*inputs)
    errors = [error(value, true) for value, true in zip(ours, exact_gradients(*inputs), strict=True)]
    print(name, errors)
    assert [value.dtype for value in ours] == [torch.bfloat16, torch.bfloat16, torch.float32]
    assert max(errors) < BOUND


@pytest.mark.usefixtures("compiled")
def test_errors_do_not_shorten_what_they_fall_on() -> None:
    """Of the part that lies along the true result or gradient, which no later step would average out."""
    inputs = halved("wide")
    for value, true in zip(found(*inputs), exact_gradients(*inputs), strict=True):
        along = ((value - true) * true).sum() / true.square().sum()
        assert abs(along) < BOUND / 10


@pytest.mark.usefixtures("compiled")
@pytest.mark.parametrize("name", ["channels that fill no panel", "more images than a block"])
def test_layouts_do_not_matter(name: str) -> None:
    x, weight, dy = halved(name)
    last = [cast("Tensor", of.detach().contiguous(memory_format=torch.channels_last)) for of in (x, weight, dy)]
    first = [cast("Tensor", of.contiguous(memory_format=torch.contiguous_format)) for of in last]
    assert all(
        map(
            torch.equal,
            found(last[0].requires_grad_(), last[1].requires_grad_(), last[2]),
            found(first[0].requires_grad_(), first[1].requires_grad_(), first[2]),
        )
    )


@pytest.mark.usefixtures("compiled")
def test_an_image_is_its_own_whatever_its_batch_and_threads() -> None:
    """Maps and their gradients to the bit; the gradient of weights is a sum over images, by threads."""
    x, weight, dy = halved("more images than a block")
    threads = torch.get_num_threads()
    try:
        torch.set_num_threads(2)
        together = found(x, weight, dy)
        assert all(map(torch.equal, found(x, weight, dy), together))
        torch.set_num_threads(7)
        apart = found(x, weight, dy)
    finally:
        torch.set_num_threads(threads)
    assert torch.equal(apart[0], together[0])
    assert torch.equal(apart[1], together[1])
    assert error(apart[2], together[2]) < 1e-5
    for some in (slice(0, 1), slice(3, 10), slice(57, 70)):
        part = found(x.detach()[some].requires_grad_(), weight, dy[some])
        assert torch.equal(part[0], together[0][some])
        assert torch.equal(part[1], together[1][some])


@pytest.mark.usefixtures("compiled")
def test_what_is_no_number_stays_in_its_image() -> None:
    a_missing_number_stays_in_its_image(*halved("tiles that are cut off"))


@pytest.mark.usefixtures("compiled")
def test_no_number_of_a_gpu_is_none() -> None:
    """Its bits are all ones: rounded like a number they would be a zero."""
    x, weight, _ = halved("whole tiles")
    with torch.no_grad():
        weight[3, 5, 1, 1] = torch.tensor(0x7FFFFFFF, dtype=torch.int32).view(torch.float32)
    y = Convolution.apply(x.detach(), weight)
    assert isinstance(y, Tensor)
    assert y[:, 3].isnan().all()
    assert not y[:, :3].isnan().any()


@pytest.mark.usefixtures("compiled")
def test_gradients_that_nobody_wants_are_left_out() -> None:
    unwanted_gradients_are_left_out(*halved("tiles that are cut off"))


@pytest.mark.usefixtures("compiled")
def test_maps_in_float32_keep_their_precision() -> None:
    x, _, _ = case("whole tiles")
    assert factors(x) == torch.float32
    assert factors(x.bfloat16()) == torch.bfloat16


def test_where_they_take_half_the_time(monkeypatch: pytest.MonkeyPatch) -> None:
    kernel = library()
    if kernel is None or not kernel.spacte_winograd_halves():
        assert not halves()
        pytest.skip("no AVX-512 BF16, or no compiler")
    for vendor, fast in (("AuthenticAMD", True), ("GenuineIntel", False)):
        info = hardware.cpu_info() | {"vendor_id": vendor}
        monkeypatch.setattr(winograd_layers, "cpu_info", lambda info=info: info)
        winograd_layers._halves.cache_clear()
        assert halves() is fast
    monkeypatch.setattr(winograd_layers, "cpu_info", lambda: hardware.cpu_info() | {"vendor_id": "AuthenticAMD"})
    for target, fast in (("avx512", True), ("avx2", False), ("avx512bw", False)):
        monkeypatch.setenv("SPACTE_CPU", target)
        winograd_layers._halves.cache_clear()
        assert halves() is fast
    winograd_layers._halves.cache_clear()
