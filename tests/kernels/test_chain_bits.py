"""Promise: a row of a chain has the same bits in every batch, and of codes on every target, too."""

import itertools

import pytest
import torch
from tests.convolution_chains import EMULATED, a_chain, a_layer, every_kind, maps

from spacte_core.kernels.cpu.chain import ChainKernel, Layer
from spacte_core.kernels.cpu.targets import TARGETS

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("two_threads")]

HERE = [target for target in (*TARGETS, EMULATED) if target.library(torch.uint8) is not None]


@every_kind
def test_a_chain_is_its_layers_one_by_one(target, dtype):
    """Each layer by itself is exact to one rounding, and together they are the same bits."""
    layers, operands = a_chain(dtype)
    x = maps(dtype, 37, 16, 9, 12)
    values = [x]
    for layer, (source, other) in zip(layers, operands, strict=True):
        given = [values[source]] if other is None else [values[source], values[other]]
        alone = ChainKernel([layer], [(0, None if other is None else 1)], [v.shape[1:] for v in given], dtype, target)
        values.append(alone(*given))
    chain = ChainKernel(layers, operands, [(16, 9, 12)], dtype, target)
    assert torch.equal(chain(x), values[-1])
    # Two maps and the chain's input at full size, two at half; and where it does not lie as outside, the result.
    assert len(chain.inner) == 5 + (target.unit is not None)


@every_kind
def test_a_row_is_its_own(target, dtype):
    """Bit for bit: whatever its neighbours, its place, the size of the batch and the number of threads."""
    layers, operands = a_chain(dtype)
    chain = ChainKernel(layers, operands, [(16, 9, 12)], dtype, target)
    x = maps(dtype, 101, 16, 9, 12)
    together = chain(x)
    order = torch.randperm(len(x), generator=torch.Generator().manual_seed(0))
    assert torch.equal(chain(x[order].contiguous(memory_format=torch.channels_last)), together[order])
    for start, size in ((0, 1), (3, 2), (17, 31), (5, 64)):
        assert torch.equal(chain(x[start : start + size]), together[start : start + size])
    for threads in (1, 3):
        torch.set_num_threads(threads)
        assert torch.equal(chain(x), together)
    if dtype != torch.uint8:
        x[20] = torch.nan
        spoilt = chain(x)
        assert spoilt[20].isnan().all()
        assert torch.equal(spoilt[:20], together[:20])
        assert torch.equal(spoilt[21:], together[21:])


@every_kind
def test_every_batch_size_gives_the_same_bits(target, dtype):
    layers, operands = a_chain(dtype, (16, 4, 5))
    chain = ChainKernel(layers, operands, [(16, 4, 5)], dtype, target)
    x = maps(dtype, 256, 16, 4, 5)
    torch.set_num_threads(1)
    together = chain(x)
    for threads in (1, 2):
        torch.set_num_threads(threads)
        for size in (*range(1, 36), 63, 64, 65, 127, 128, 200, 255, 256):
            start = (size * 37) % (257 - size)
            assert torch.equal(chain(x[start : start + size]), together[start : start + size]), (size, threads)


@pytest.mark.skipif(len(HERE) < 2, reason="one target here, or none")
@pytest.mark.parametrize("relu", [False, True])
def test_codes_are_the_same_bits_on_every_target(relu):
    """Sums of codes are exact, and what follows them is the same arithmetic in every lane."""
    generator = torch.Generator().manual_seed(5)
    geometries = itertools.product((3, 16, 24, 64), (16, 32, 48), (1, 3), (1, 2), ((5, 7), (8, 8), (9, 32)))
    for number, (inputs, channels, kernel, stride, side) in enumerate(geometries):
        source = (inputs, *side)
        layer = a_layer(torch.uint8, source, channels, kernel=kernel, stride=stride, border=77, seed=number, relu=relu)
        x = torch.randint(0, 256, (19, *source), generator=generator, dtype=torch.uint8)
        other = torch.randint(0, 256, (19, *layer.shape), generator=generator, dtype=torch.uint8)
        for given in ([x], [x, other]):
            operands, inputs_of = [(0, len(given) - 1 or None)], [value.shape[1:] for value in given]
            made = [ChainKernel([layer], operands, inputs_of, torch.uint8, target)(*given) for target in HERE]
            assert all(torch.equal(made[0], result) for result in made[1:]), (number, len(given))


@pytest.mark.skipif(len(HERE) < 2, reason="one target here, or none")
def test_a_chain_of_codes_and_its_averages_are_the_same_bits_on_every_target():
    layers, operands = a_chain(torch.uint8)
    average = Layer(None, None, None, 0.1, 1, False, layers[-1].shape, (32, 1, 1))
    x = maps(torch.uint8, 37, 16, 9, 12)
    for steps, taken in ((layers, operands), ([*layers, average], [*operands, (len(layers), None)])):
        made = [ChainKernel(steps, taken, [(16, 9, 12)], torch.uint8, target)(x) for target in HERE]
        assert all(torch.equal(made[0], result) for result in made[1:])
