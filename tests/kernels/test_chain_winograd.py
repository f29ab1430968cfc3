"""Promise: Winograd's layers of codes have the very sums of direct products, whatever codes and weights come in.

Those of floats are as close to the convolution as float32 lets them be, and the same bits on every target.
"""

import itertools
from dataclasses import replace

import pytest
import torch
from tests.convolution_chains import EMULATED, a_chain, a_layer, maps
from torch.nn import functional

from spacte_core.kernels.cpu import chain_winograd, targets
from spacte_core.kernels.cpu.chain import ChainKernel, Layer, by_winograd
from spacte_core.kernels.cpu.chain_winograd import MOST_SUM, USUAL, is_exact, transform_codes
from spacte_core.kernels.cpu.targets import TARGETS

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("two_threads")]

CODES = torch.uint8
VECTORS = [target for target in TARGETS if target.unit is not None]
every_target = pytest.mark.parametrize(
    "target",
    [
        pytest.param(
            target,
            id=target.name,
            marks=pytest.mark.skipif(target.library(CODES) is None, reason=f"no {target.name} here, or no compiler"),
        )
        for target in VECTORS
    ],
)

# Lavin and Gray 2016, section 4.3, for F(4 x 4, 3 x 3).
B_T = torch.tensor(
    [[4, 0, -5, 0, 1, 0], [0, -4, -4, 1, 1, 0], [0, 4, -4, -1, 1, 0],
     [0, -2, -1, 2, 1, 0], [0, 2, -1, -2, 1, 0], [0, 4, 0, -5, 0, 1]]
)  # fmt: skip
A_T = torch.tensor([[1, 1, 1, 1, 1, 0], [0, 1, -1, 2, -2, 0], [0, 1, 1, 4, 4, 0], [0, 1, -1, 8, -8, 1]])
HALVED = torch.tensor([1, 1, 1, 1, 1, 2])  # what the last row of the weights' transform lacks


@pytest.fixture
def always(monkeypatch):
    """Winograd where it is exact, whether it pays or not."""
    monkeypatch.setattr(chain_winograd, "pays", lambda *_: True)


def directly(target):
    """The same target without Winograd."""
    never = USUAL._replace(words=float("inf"))
    return replace(target, costs=never, intel=never)


def extreme_layers():
    """Layers and inputs: sides that fill no tile, few channels, borders, residuals, the largest weights and codes."""
    generator = torch.Generator().manual_seed(7)
    geometries = itertools.product((1, 3, 20), (4, 12, 20), ((1, 1), (5, 7), (9, 4), (12, 17)))
    found = []
    for number, (inputs, channels, side) in enumerate(geometries):
        source = (inputs, *side)
        layer = a_layer(CODES, source, channels, border=(0, 113, 255)[number % 3], seed=number)
        x = torch.randint(0, 256, (9, *source), generator=generator, dtype=CODES)
        if number % 4 == 1:
            signs = torch.rand(layer.weight_OIKK.shape, generator=generator) < 0.5
            layer = replace(layer, weight_OIKK=torch.where(signs, -128, 127).to(torch.int8))
            x = (x & 1) * 255
        elif number % 4 in (2, 3):
            weight = torch.full(layer.weight_OIKK.shape, -128 if number % 4 == 2 else 127, dtype=torch.int8)
            layer, x = replace(layer, weight_OIKK=weight, bias_O=layer.bias_O + (2 - number % 4) * 1000), x | 0xF0
        other = torch.randint(0, 256, (9, *layer.shape), generator=generator, dtype=CODES)
        found.append((layer, [x, other] if number % 2 else [x]))
    return found


def test_the_transforms_give_576_times_the_sums_and_fit_their_words():
    """Inputs and weights at their extremes, among them those that make each of the 36 largest."""
    generator = torch.Generator().manual_seed(0)
    signs = torch.einsum("ia,jb->ijab", B_T, B_T).flatten(0, 1)
    random = torch.randint(0, 2, (500, 6, 6), generator=generator)
    codes = 255 * torch.cat([(signs > 0).long(), (signs < 0).long(), random])
    into = B_T @ codes @ B_T.T
    assert into.abs().max() == 68 * 255 < 1 << 15
    corners = torch.randint(0, 2, (500, 1, 3, 3), generator=generator) * 255 - 128
    steady = torch.tensor([-128, 127])[:, None, None, None].expand(2, 1, 3, 3)
    weights = torch.cat([corners, steady]).to(torch.int8)
    words = transform_codes(weights).view(6, 6, -1).permute(2, 0, 1)
    assert words.int().abs().max() == 144 * 128 < 1 << 15
    assert torch.equal(words.long(), transform_codes(weights.long()).view(6, 6, -1).permute(2, 0, 1).long())
    products = into[:, None] * (words.long() * HALVED * HALVED[:, None])
    assert (into[:, None] * words.long()).abs().max() * 2 < 1 << 31
    sums = functional.conv2d(codes[:, None].double(), weights.double()).long()
    assert torch.equal(A_T @ products @ A_T.T, 576 * sums)


@every_target
@pytest.mark.usefixtures("always")
def test_codes_are_those_of_direct_products(target):
    for number, (layer, given) in enumerate(extreme_layers()):
        operands, shapes = [(0, len(given) - 1 or None)], [value.shape[1:] for value in given]
        assert by_winograd(layer, CODES, target)
        made = ChainKernel([layer], operands, shapes, CODES, target)(*given)
        with pytest.MonkeyPatch.context() as patched:
            patched.setattr(chain_winograd, "pays", lambda *_: False)
            wanted = ChainKernel([layer], operands, shapes, CODES, target)(*given)
        assert torch.equal(made, wanted), number


@every_target
@pytest.mark.usefixtures("always")
def test_every_sum_is_exact(target):
    """The last bit of sums over many channels, shown by a scale of 1: what lies within the codes is the sum itself."""
    generator = torch.Generator().manual_seed(2)
    weight = torch.randint(-1, 2, (8, 70, 3, 3), generator=generator, dtype=torch.int8)
    x = torch.randint(0, 6, (11, 70, 10, 7), generator=generator, dtype=CODES)
    layer = Layer(weight, torch.ones(8), torch.full((8,), 128.0), 0.0, 1, True, (70, 10, 7), (8, 10, 7), 5, 1)
    made = ChainKernel([layer], [(0, None)], [(70, 10, 7)], CODES, target)(x)
    padded = functional.pad(x.double(), (1, 1, 1, 1), value=5)
    wanted = functional.conv2d(padded, weight.double()) + 128
    assert (wanted.clamp(0, 255) == wanted).double().mean() > 0.9
    assert torch.equal(made.double(), wanted.clamp(0, 255))


@every_target
@pytest.mark.usefixtures("always")
def test_the_largest_sums_that_are_taken(target):
    """All weights and codes at their largest, with as many channels as fit and one more."""
    for code in (-128, 127):
        most = MOST_SUM // (9 * abs(code) * 255)
        for inputs, taken in ((most, True), (most + 1, False)):
            weight = torch.full((4, inputs, 3, 3), code, dtype=torch.int8)
            reached = float(inputs * 9 * code * 255)
            scale_O, bias_O = torch.full((4,), 2.0**-18), torch.full((4,), 130 - reached * 2.0**-18)
            layer = Layer(weight, scale_O, bias_O, 0.0, 1, True, (inputs, 3, 2), (4, 3, 2), 255, 1)
            assert is_exact(weight) == by_winograd(layer, CODES, target) == taken
            x = torch.full((3, inputs, 3, 2), 255, dtype=CODES)
            assert (ChainKernel([layer], [(0, None)], [(inputs, 3, 2)], CODES, target)(x) == 130).all()


@every_target
@pytest.mark.usefixtures("always")
def test_a_chain_of_them_is_every_rows_own_and_that_of_the_matrix_units(target):
    """With strided layers, residuals and 1 x 1 layers between: whatever the batch, the place and the threads."""
    layers, operands = a_chain(CODES)
    layers[0] = replace(layers[0], border=77)
    assert [by_winograd(layer, CODES, target) for layer in layers] == [layer.stride == 1 for layer in layers]
    chain = ChainKernel(layers, operands, [(16, 9, 12)], CODES, target)
    x = maps(CODES, 70, 16, 9, 12)
    together = chain(x)
    for start, size in ((0, 1), (3, 2), (17, 31), (6, 64)):
        assert torch.equal(chain(x[start : start + size]), together[start : start + size])
    for threads in (1, 3):
        torch.set_num_threads(threads)
        assert torch.equal(chain(x), together)
    if EMULATED.library(CODES) is not None:
        assert torch.equal(ChainKernel(layers, operands, [(16, 9, 12)], CODES, EMULATED)(x), together)


@every_target
@pytest.mark.usefixtures("always")
@pytest.mark.parametrize("shape", [(128, 9, 9), (6, 5, 300)])
def test_maps_of_many_batches_of_tiles(target, shape):
    """Many channels, of which few tiles are taken at a time, and rows of more tiles than are taken at a time."""
    layer = a_layer(CODES, shape, 12, border=3)
    x = maps(CODES, 5, *shape)
    made = ChainKernel([layer], [(0, None)], [shape], CODES, target)(x)
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(chain_winograd, "pays", lambda *_: False)
        assert torch.equal(ChainKernel([layer], [(0, None)], [shape], CODES, target)(x), made)


def test_layers_are_taken_where_it_pays(monkeypatch):
    """Those of a ResNet: all but the first without products of bytes, the wide ones with VNNI, none with i8mm."""
    shapes = [((3, 32, 32), 16), ((16, 32, 32), 16), ((32, 16, 16), 32), ((64, 8, 8), 64)]
    layers = [a_layer(CODES, shape, channels) for shape, channels in shapes]
    monkeypatch.setattr(targets, "cpu_info", lambda: {"vendor_id": "AuthenticAMD"})
    taken = {target.name: [by_winograd(layer, CODES, target) for layer in layers] for target in VECTORS}
    words, vnni = [False, True, True, True], [False, False, True, True]
    assert taken == {
        **dict.fromkeys(("avx512bw", "avx2", "neon"), words),
        **dict.fromkeys(("avx512", "avx_vnni"), vnni),
        "neon_i8mm": [False] * 4,
    }
    avx2, avx512 = (next(target for target in VECTORS if target.name == name) for name in ("avx2", "avx512"))
    wide = a_layer(CODES, (128, 28, 28), 128)
    monkeypatch.setattr(targets, "cpu_info", lambda: {"vendor_id": "GenuineIntel"})
    assert [by_winograd(layer, CODES, avx512) for layer in (*layers, wide)] == [False, False, False, False, True]
    assert [by_winograd(layer, CODES, avx2) for layer in layers] == words
    others = [{"stride": 2}, {"kernel": 1}]
    assert not any(by_winograd(a_layer(CODES, (64, 8, 8), 64, **geometry), CODES, avx2) for geometry in others)
    assert not any(by_winograd(layer, CODES, directly(avx2)) for layer in layers)
    monkeypatch.setenv("SPACTE_KERNELS", "-winograd")
    assert not any(by_winograd(layer, CODES, avx2) for layer in layers)
