"""Promise: Winograd's convolutions in training are the plain ones and their gradients, in float32's precision."""

import itertools

import pytest
import torch
from tests.convolution_gradients import error, exact, exact_gradients, second_gradients
from tests.winograd_cases import (
    SHAPES,
    a_missing_number_stays_in_its_image,
    case,
    found,
    unwanted_gradients_are_left_out,
)
from torch import Tensor, nn

from spacte_core.hardware import cpu_flags
from spacte_core.kernels import optimize
from spacte_core.kernels.cpu import winograd_training
from spacte_core.kernels.cpu.winograd_layers import library
from spacte_core.kernels.cpu.winograd_training import Convolution, WinogradConv, known
from spacte_core.models import ModelConfig, build

needs_kernel = pytest.mark.skipif(library() is None, reason="neither AVX-512 nor AVX2, or no compiler")

BOUND = 3e-6
"""Relative error in the 2-norm; the largest seen is 1.4e-6, for 256 channels, where a direct convolution's is 4e-7."""


@needs_kernel
@pytest.mark.parametrize("name", SHAPES)
def test_it_is_the_convolution_and_its_gradients(name: str) -> None:
    inputs = case(name)
    errors = [error(value, true) for value, true in zip(found(*inputs), exact_gradients(*inputs), strict=True)]
    print(name, errors)
    assert max(errors) < BOUND


@needs_kernel
@pytest.mark.parametrize("name", SHAPES)
def test_maps_in_bfloat16(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Sums in float32, rounded once: as the float32 kernel on the same values."""
    monkeypatch.setattr(winograd_training, "halves", lambda: False)
    x, weight, dy = case(name)
    x = x.detach().bfloat16().requires_grad_()
    ours = found(x, weight, dy.bfloat16())
    same = found(x.detach().float().requires_grad_(), weight, dy.bfloat16().float())
    assert [value.dtype for value in ours] == [torch.bfloat16, torch.bfloat16, torch.float32]
    assert torch.equal(ours[0], same[0].bfloat16())
    assert torch.equal(ours[1], same[1].bfloat16())
    assert torch.equal(ours[2], same[2])


@needs_kernel
@pytest.mark.parametrize("name", ["channels that fill no panel", "more images than a block"])
def test_layouts_do_not_matter(name: str) -> None:
    x, weight, dy = case(name)
    usual = found(x, weight, dy)
    layouts = (torch.contiguous_format, torch.channels_last)
    for x_layout, weight_layout, dy_layout in itertools.product(layouts, repeat=3):
        moved = (
            x.detach().contiguous(memory_format=x_layout).requires_grad_(),
            weight.detach().contiguous(memory_format=weight_layout).requires_grad_(),
            dy.contiguous(memory_format=dy_layout),
        )
        assert all(map(torch.equal, found(*moved), usual))


@needs_kernel
def test_an_image_is_its_own_whatever_its_batch_and_threads() -> None:
    """Maps and their gradients to the bit; the gradient of weights is a sum over images, by threads."""
    x, weight, dy = case("more images than a block")
    threads = torch.get_num_threads()
    try:
        torch.set_num_threads(2)
        together = found(x, weight, dy)
        assert all(map(torch.equal, found(x, weight, dy), together))
        torch.set_num_threads(1)
        alone = found(x, weight, dy)
    finally:
        torch.set_num_threads(threads)
    assert torch.equal(alone[0], together[0])
    assert torch.equal(alone[1], together[1])
    assert error(alone[2], together[2]) < BOUND
    for some in (slice(0, 1), slice(3, 10), slice(57, 70)):
        part = found(x.detach()[some].requires_grad_(), weight, dy[some])
        assert torch.equal(part[0], together[0][some])
        assert torch.equal(part[1], together[1][some])


@needs_kernel
def test_more_threads_than_images() -> None:
    x, weight, dy = case("tiles that are cut off")
    usual, threads = found(x, weight, dy), torch.get_num_threads()
    try:
        torch.set_num_threads(7)
        assert all(error(value, same) < BOUND for value, same in zip(found(x, weight, dy), usual, strict=True))
    finally:
        torch.set_num_threads(threads)


@needs_kernel
def test_what_is_no_number_stays_in_its_image() -> None:
    a_missing_number_stays_in_its_image(*case("tiles that are cut off"))


@needs_kernel
def test_the_default_type_does_not_matter() -> None:
    inputs = case("channels that fill no panel")
    usual = found(*inputs)
    before = torch.get_default_dtype()
    try:
        torch.set_default_dtype(torch.float64)
        assert all(map(torch.equal, found(*inputs), usual))
    finally:
        torch.set_default_dtype(before)


@needs_kernel
def test_no_number_of_a_gpu_is_none_in_bfloat16() -> None:
    """Its bits are all ones: rounded like a number they would be a zero."""
    x, weight, _ = case("whole tiles")
    with torch.no_grad():
        weight[3, 5, 1, 1] = torch.tensor(0x7FFFFFFF, dtype=torch.int32).view(torch.float32)
    y = Convolution.apply(x.detach().bfloat16(), weight)
    assert isinstance(y, Tensor)
    assert y[:, 3].isnan().all()
    assert not y[:, :3].isnan().any()


@needs_kernel
def test_gradients_that_nobody_wants_are_left_out() -> None:
    unwanted_gradients_are_left_out(*case("tiles that are cut off"))


@needs_kernel
@pytest.mark.parametrize("layout", [torch.channels_last, torch.contiguous_format])
def test_a_gradient_can_be_differentiated(layout: torch.memory_format) -> None:
    """As methods want that attack through the gradient of the input."""
    x, weight, dy = case("whole tiles")
    x = x.detach().contiguous(memory_format=layout).requires_grad_()

    ours = second_gradients(Convolution.apply(x, weight), x, weight, dy)
    x64, weight64 = (value.detach().double().requires_grad_() for value in (x, weight))
    theirs = second_gradients(exact(x64, weight64), x64, weight64, dy)
    assert all(error(value, true) < 2 * BOUND for value, true in zip(ours, theirs, strict=True))


@needs_kernel
@pytest.mark.skipif("avx512f" not in cpu_flags(), reason="no AVX-512 to compare with")
def test_narrower_registers_give_the_same_bits(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in SHAPES:
        inputs = case(name)
        wide = found(*inputs)
        with monkeypatch.context() as patched:
            patched.setenv("SPACTE_CPU", "avx2")
            assert all(map(torch.equal, found(*inputs), wide)), name


def test_layers_that_it_does_not_know() -> None:
    assert known(nn.Conv2d(16, 24, 3, padding=1, bias=False))
    others = [
        nn.Conv2d(16, 16, 3, padding=1),
        nn.Conv2d(16, 16, 3, bias=False),
        nn.Conv2d(16, 16, 3, padding=1, stride=2, bias=False),
        nn.Conv2d(16, 16, 3, padding=2, dilation=2, bias=False),
        nn.Conv2d(16, 16, 5, padding=2, bias=False),
        nn.Conv2d(16, 16, 3, padding=1, groups=2, bias=False),
        nn.Conv2d(16, 16, 3, padding=1, padding_mode="circular", bias=False),
        nn.Conv2d(20, 16, 3, padding=1, bias=False),
        nn.Conv2d(8, 16, 3, padding=1, bias=False),
        nn.Conv2d(16, 16, 3, padding=1, bias=False).double(),
    ]
    assert not any(map(known, others))


@needs_kernel
def test_the_pass_takes_what_it_knows(monkeypatch: pytest.MonkeyPatch) -> None:
    config = ModelConfig(arch="cifar_fast64", heads=2, num_classes=10, input_shape=(3, 16, 16))
    net = build(config).to(memory_format=torch.channels_last)
    names = list(net.state_dict())
    twin = optimize(net, torch.device("cpu"))
    replaced = [module.conv for module in twin.modules() if isinstance(module, WinogradConv)]
    assert {id(conv.weight) for conv in replaced} == {id(p) for n, p in net.named_parameters() if p.shape[2:] == (3, 3)}
    assert list(net.state_dict()) == names
    monkeypatch.setenv("SPACTE_KERNELS", "-winograd")
    assert not [m for m in optimize(net, torch.device("cpu")).modules() if isinstance(m, WinogradConv)]
