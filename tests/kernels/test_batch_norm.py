"""The compiled normalisation gives PyTorch's values, gradients and statistics, and steps aside where it must."""

import copy

import pytest
import torch
from torch import Tensor, nn

from spacte_core.kernels.compiler import compile_library
from spacte_core.kernels.cpu import batch_norm as norm
from spacte_core.kernels.cpu.batch_norm import fits, fuse_batch_norms, fused_batch_norm

pytestmark = pytest.mark.slow

needs_compiler = pytest.mark.skipif(
    compile_library(norm.SOURCE, *norm.OPTIONS) is None, reason="there is no C++ compiler on this machine"
)

KINDS = [(torch.float32, 2e-6), (torch.bfloat16, 4e-3)]
"""Types of the maps, and the relative error that rounding to them may cause."""


def maps(*shape: int, dtype: torch.dtype) -> Tensor:
    """Random maps far from zero mean, channels last, that want a gradient."""
    x = (3 + torch.randn(shape)).to(dtype).to(memory_format=torch.channels_last)
    return x.requires_grad_()


def layer(channels: int, *, training: bool) -> nn.BatchNorm2d:
    """A normalisation that has seen something; without training it is constant."""
    made = nn.BatchNorm2d(channels)
    nn.init.uniform_(made.weight, 0.5, 1.5)
    nn.init.normal_(made.bias)
    assert made.running_mean is not None
    nn.init.normal_(made.running_mean)
    return made.train(training).requires_grad_(training)


def error(found: Tensor | None, true: Tensor | None) -> float:
    """Relative error in the L2 norm."""
    assert found is not None
    assert true is not None
    found, true = found.detach().double(), true.detach().double()
    return float((found - true).norm() / true.norm())


@needs_compiler
@pytest.mark.parametrize(("dtype", "tolerance"), KINDS)
@pytest.mark.parametrize(
    "shape",
    [
        (20, 16, 8, 8),
        (9, 32, 6, 6),
        (70, 64, 5, 5),
        (5, 192, 3, 3),
        (6, 24, 31, 31),  # with a rest that fills no tile
        (3, 10, 5, 7),
        (2, 101, 3, 2),
        (1, 3, 1, 5),  # nothing but a rest
    ],
)
@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize(("plus", "relu"), [(False, False), (False, True), (True, False), (True, True)])
def test_values_gradients_and_statistics_are_those_of_float64(
    dtype: torch.dtype, tolerance: float, shape: tuple[int, ...], training: bool, plus: bool, relu: bool
) -> None:
    torch.manual_seed(0)
    ours = layer(shape[1], training=training)
    true = copy.deepcopy(ours).double()
    x = maps(*shape, dtype=dtype)
    other = maps(*shape, dtype=dtype) if plus else None
    weight = torch.randn(shape).to(dtype)
    assert fits(ours, x, other)
    y = fused_batch_norm(ours, x, other, relu=relu)
    (y * weight).sum().backward()

    x_64 = x.detach().double().requires_grad_()
    other_64 = other.detach().double().requires_grad_() if other is not None else None
    before = true(x_64)
    if other_64 is not None:
        before = before + other_64
    # A value that rounding moves over zero passes the other gradient: let both see the same signs.
    open_ = (y > 0) if relu else torch.ones_like(y, dtype=torch.bool)
    (before * weight.double() * open_).sum().backward()

    assert error(y, before.relu() if relu else before) < tolerance
    assert error(x.grad, x_64.grad) < tolerance
    if other is not None and other_64 is not None:
        assert error(other.grad, other_64.grad) < tolerance
    if training:
        for name in ("weight", "bias"):
            assert error(getattr(ours, name).grad, getattr(true, name).grad) < 2e-6
    for name in ("running_mean", "running_var"):
        assert error(getattr(ours, name), getattr(true, name)) < 2e-6
    assert int(ours.num_batches_tracked or 0) == int(training)


@needs_compiler
@pytest.mark.parametrize("training", [True, False])
def test_a_gradient_can_be_differentiated(training: bool) -> None:
    torch.manual_seed(0)
    ours = layer(16, training=training)
    true = copy.deepcopy(ours)
    found = []
    for made, step in ((ours, fused_batch_norm), (true, plain)):
        x, other = maps(6, 16, 4, 4, dtype=torch.float32), maps(6, 16, 4, 4, dtype=torch.float32)
        with torch.no_grad():
            generator = torch.Generator().manual_seed(1)
            x.copy_(torch.randn(x.shape, generator=generator))
            other.copy_(torch.randn(x.shape, generator=generator))
        y = step(made, x, other)
        (slope,) = torch.autograd.grad(y.square().sum(), x, create_graph=True)
        slope.square().sum().backward()
        found.append((x.grad, other.grad))
    for ours_of, true_of in zip(*found, strict=True):
        assert error(ours_of, true_of) < 1e-5


def plain(made: nn.BatchNorm2d, x: Tensor, other: Tensor) -> Tensor:
    """The same step in PyTorch's operations."""
    return (made(x) + other).relu()


@needs_compiler
def test_the_number_of_threads_changes_no_bit() -> None:
    before = torch.get_num_threads()
    found = []
    try:
        for threads in (1, 2):
            torch.set_num_threads(threads)
            torch.manual_seed(0)
            ours, x = layer(24, training=True), maps(41, 24, 15, 15, dtype=torch.bfloat16)
            fused_batch_norm(ours, x).square().sum().backward()
            found.append((x.grad, ours.weight.grad, ours.running_var))
    finally:
        torch.set_num_threads(before)
    for one, two in zip(*found, strict=True):
        assert torch.equal(one, two)


@needs_compiler
def test_what_is_no_number_stays_none() -> None:
    ours, x = layer(16, training=True), maps(4, 16, 4, 4, dtype=torch.float32)
    with torch.no_grad():
        x[0, 3, 0, 0] = torch.nan
    y = fused_batch_norm(ours, x)
    assert y[:, 3].isnan().all()
    assert not y[:, 4].isnan().any()


@needs_compiler
def test_it_steps_aside() -> None:
    trained, constant = layer(16, training=True), layer(16, training=False)
    x = maps(4, 16, 4, 4, dtype=torch.float32)
    assert fits(trained, x, None)
    assert not fits(trained, x.detach().contiguous(), None), "another layout"
    assert not fits(trained, x.double(), None), "another type"
    assert not fits(trained, x, x.detach().bfloat16()), "two types"
    assert fits(layer(24, training=True), maps(4, 24, 3, 3, dtype=torch.float32), None), "part of a tile"
    assert not fits(layer(1001, training=True), maps(2, 1001, 2, 2, dtype=torch.float32), None), "a tile larger by far"
    assert not fits(constant.requires_grad_(), x, None), "weights to train behind constant statistics"
    assert not fits(nn.BatchNorm2d(16, momentum=None), x, None), "statistics averaged in another way"
    with torch.no_grad():
        assert not fits(trained, x, None), "nobody wants a gradient"


def test_without_a_compiler_pytorch_does_the_work(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(norm, "compile_library", lambda *_: None)
    torch.manual_seed(0)
    made, x = layer(16, training=True), maps(4, 16, 4, 4, dtype=torch.float32)
    twin = copy.deepcopy(made)
    assert torch.equal(fused_batch_norm(made, x), twin(x).relu())


def test_the_pass_takes_sums_and_relus_along() -> None:
    torch.manual_seed(0)
    layers = [nn.Conv2d(3, 16, 3), nn.BatchNorm2d(16), nn.ReLU(), nn.ReLU(), nn.Conv2d(16, 16, 1), nn.BatchNorm2d(16)]
    plain_net = nn.Sequential(*copy.deepcopy(layers))
    graph = fuse_batch_norms(torch.fx.symbolic_trace(nn.Sequential(*layers)))
    steps = [module for module in graph.modules() if isinstance(module, norm.FusedBatchNorm)]
    assert [step.relu for step in steps] == [True, False]
    assert len([module for module in graph.modules() if isinstance(module, nn.ReLU)]) == 1  # the second one
    x = torch.randn(4, 3, 8, 8)
    assert torch.allclose(graph(x), plain_net(x), atol=1e-6)
    assert list(map(id, graph.parameters())) == list(map(id, nn.Sequential(*layers).parameters()))


class Residual(nn.Module):
    """A normalisation that is called twice, one whose result is read twice, and a value that is added to itself."""

    def __init__(self) -> None:
        super().__init__()
        self.twice, self.kept, self.doubled = nn.BatchNorm2d(16), nn.BatchNorm2d(16), nn.BatchNorm2d(16)

    def forward(self, x: Tensor) -> Tensor:
        h = torch.relu(self.twice(self.twice(x)) + x)
        kept = self.kept(h)
        h = torch.relu(h + kept) * kept
        h = self.doubled(h)
        return torch.relu(h + h)


@needs_compiler
def test_the_pass_keeps_what_is_read_elsewhere() -> None:
    torch.manual_seed(0)
    net = Residual()
    true = copy.deepcopy(net)
    graph = fuse_batch_norms(torch.fx.symbolic_trace(net))
    x = maps(6, 16, 4, 4, dtype=torch.float32)
    found = []
    for made in (graph, true):
        y = made(x)
        (slope,) = torch.autograd.grad(y.square().sum(), x)
        found.append((y, slope))
    for ours, theirs in zip(*found, strict=True):
        assert error(ours, theirs) < 1e-5
    for name, buffer in true.named_buffers():
        assert torch.allclose(net.get_buffer(name).double(), buffer.double(), rtol=1e-4, atol=1e-5), name


@needs_compiler
def test_no_number_of_a_gpu_is_none_in_bfloat16() -> None:
    """Its bits are all ones: rounded like a number they would be a zero."""
    ours = layer(64, training=True)
    with torch.no_grad():
        ours.weight[3] = torch.tensor(0x7FFFFFFF, dtype=torch.int32).view(torch.float32)
    y = fused_batch_norm(ours, maps(4, 64, 4, 4, dtype=torch.bfloat16))
    assert y[:, 3].isnan().all()
    assert not y[:, :3].isnan().any()
