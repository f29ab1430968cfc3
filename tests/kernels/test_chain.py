"""Promise: every target computes the plain convolutions up to one rounding of a result."""

import pytest
import torch
from tests.convolution_chains import a_layer, every_kind, exact, maps, of

from spacte_core.kernels.cpu.chain import ChainKernel, Layer

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("two_threads")]


def assert_rounded(made, wanted):
    if made.dtype == torch.uint8:  # a tie may fall either way
        assert (made.double() - wanted).abs().max() < 0.501
    else:
        torch.testing.assert_close(made.double(), wanted, rtol=2**-8, atol=2e-5)


@every_kind
@pytest.mark.parametrize(
    ("channels_in", "channels", "height", "width", "kernel", "stride"),
    [
        (16, 16, 32, 32, 3, 1), (16, 32, 32, 32, 3, 2), (16, 32, 32, 32, 1, 2), (32, 32, 16, 16, 3, 1),
        (32, 64, 16, 16, 3, 2), (64, 64, 8, 8, 3, 1), (3, 16, 32, 32, 3, 1), (1, 32, 8, 8, 3, 1),
        (5, 48, 7, 9, 3, 1), (48, 16, 9, 7, 3, 2), (128, 16, 5, 3, 1, 1), (16, 96, 1, 1, 3, 1), (20, 16, 6, 5, 3, 3),
    ],
)  # fmt: skip
@pytest.mark.parametrize(("residual", "relu", "rows"), [(False, True, 7), (True, True, 33), (True, False, 16)])
def test_values(target, dtype, channels_in, channels, height, width, kernel, stride, residual, relu, rows):
    border = 0 if dtype != torch.uint8 else 113
    layer = a_layer(
        dtype, (channels_in, height, width), channels, kernel=kernel, stride=stride, relu=relu, border=border
    )
    x = maps(dtype, rows, channels_in, height, width)
    other = maps(dtype, rows, *layer.shape, seed=2) if residual else None
    given = [x] if other is None else [x, other]
    before = [value.clone() for value in given]
    operands = [(0, 1 if residual else None)]
    made = ChainKernel([layer], operands, [value.shape[1:] for value in given], dtype, target)(*given)
    assert made.is_contiguous(memory_format=torch.channels_last)
    assert made.shape == (rows, *layer.shape)
    assert_rounded(made, exact(layer, x, other))
    assert all(torch.equal(a, b) for a, b in zip(given, before, strict=True))


@every_kind
@pytest.mark.parametrize(
    ("kernel", "stride", "padding"), [(2, 1, 0), (3, 1, 0), (2, 2, 0), (2, 2, 1), (3, 2, 0), (1, 3, 0)]
)
@pytest.mark.parametrize(
    ("channels_in", "channels", "height", "width"), [(3, 32, 12, 9), (32, 16, 5, 7), (16, 48, 3, 3)]
)
def test_kernels_and_paddings(target, dtype, kernel, stride, padding, channels_in, channels, height, width):
    options = {"kernel": kernel, "stride": stride, "padding": padding, "border": 0 if dtype != torch.uint8 else 201}
    layer = a_layer(dtype, (channels_in, height, width), channels, **options)
    x = maps(dtype, 18, channels_in, height, width)
    made = ChainKernel([layer], [(0, None)], [x.shape[1:]], dtype, target)(x)
    assert made.shape == (18, *layer.shape)
    assert_rounded(made, exact(layer, x))


@every_kind
def test_one_value_as_source_and_residual(target, dtype):
    layer = a_layer(dtype, (16, 5, 6), 16, border=9 if dtype == torch.uint8 else 0)
    x = maps(dtype, 20, 16, 5, 6)
    made = ChainKernel([layer], [(0, 0)], [(16, 5, 6)], dtype, target)(x)
    assert_rounded(made, exact(layer, x, x))


@every_kind
def test_averages(target, dtype):
    average = Layer(None, None, None, 0.25 / 15, 1, False, (48, 5, 3), (48, 1, 1))
    x = maps(dtype, 19, 48, 5, 3)
    made = ChainKernel([average], [(0, None)], [(48, 5, 3)], dtype, target)(x)
    assert made.dtype == torch.float32
    torch.testing.assert_close(made, (x.double().mean((2, 3)) / 4).float(), rtol=1e-6, atol=1e-6)


@of(torch.uint8)
def test_what_no_graph_has_is_refused(target):
    dtype = torch.uint8
    average = Layer(None, None, None, 1.0, 1, False, (16, 4, 4), (16, 1, 1))
    with pytest.raises(ValueError, match="ends a chain"):
        ChainKernel([average, average], [(0, None), (0, None)], [(16, 4, 4)], dtype, target)
    layers = [a_layer(dtype, (16, 4, 4), 16, border=code) for code in (3, 4)]
    with pytest.raises(ValueError, match="one code of zero"):
        ChainKernel(layers, [(0, None), (0, 1)], [(16, 4, 4)], dtype, target)
    with pytest.raises(ValueError, match="only an input of a chain"):
        ChainKernel(layers, [(0, None), (1, None)], [(16, 4, 4)], dtype, target)


@of(torch.uint8)
def test_inputs_of_another_kind_are_refused(target):
    chain = ChainKernel([a_layer(torch.uint8, (16, 4, 4), 16)], [(0, None)], [(16, 4, 4)], torch.uint8, target)
    with pytest.raises(ValueError, match="is not the chain's"):
        chain(torch.zeros(2, 16, 4, 4))
    with pytest.raises(ValueError, match="is not the chain's"):
        chain(torch.zeros(2, 16, 4, 5, dtype=torch.uint8))
