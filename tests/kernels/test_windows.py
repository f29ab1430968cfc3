"""Promise: filters see what PyTorch's own unfolding gives, and the codes stay as they were."""

import hashlib

import pytest
import torch
from torch import nn

from spacte_core.kernels.graph.fusing import fuse
from spacte_core.kernels.graph.tracing import trace
from spacte_core.kernels.int8 import rounding, windows
from spacte_core.kernels.int8.rounding import WeightRounder
from spacte_core.kernels.int8.windows import Windows

_DIGEST = "6cc260e449cfe779"
"""Of the codes of `network`, by the rounding of November 2026: with it, certificates name the same function."""


@pytest.mark.parametrize(
    ("kernel", "stride", "padding", "dilation", "size"),
    [
        (3, 1, 1, 1, (8, 8)),  # every pixel has its window: sums are shared
        ((5, 3), 1, (2, 1), 1, (6, 9)),
        (3, 1, 2, 2, (9, 8)),
        (4, 1, 3, 2, (9, 8)),  # every pixel has its window, whose middle is between two of them
        ((6, 4), 1, (5, 3), 2, (8, 8)),
        (3, 1, 0, 1, (8, 8)),
        (3, 2, 1, 1, (8, 8)),
        (1, 1, 0, 1, (8, 8)),
        ((3, 5), (2, 1), (1, 2), (1, 2), (12, 11)),
        (3, 1, 1, 1, (32, 32)),  # more windows than are taken
    ],
)
@pytest.mark.parametrize("channels", [6, 32])  # the compiled kernel takes multiples of 16
def test_results_and_moments_are_those_of_unfolded_inputs(kernel, stride, padding, dilation, size, channels):
    torch.manual_seed(0)
    conv = nn.Conv2d(channels, 10, kernel, stride, padding, dilation).double()
    x = torch.randn(24, channels, *size, dtype=torch.float64)
    seen = Windows(conv, x)
    torch.testing.assert_close(seen.convolved(), conv(x), rtol=1e-12, atol=1e-12)
    patches_NK = nn.functional.unfold(x, conv.kernel_size, conv.dilation, conv.padding, conv.stride).mT.flatten(0, 1)
    patches_NK = patches_NK[:: max(1, len(patches_NK) // 2048)]
    taps = patches_NK.shape[1] // channels
    wanted = (patches_NK.T @ patches_NK).view(channels, taps, channels, taps).permute(1, 0, 3, 2)
    torch.testing.assert_close(seen.moments(), wanted, rtol=1e-12, atol=1e-9)


def network() -> nn.Sequential:
    """Every kind of layer that is rounded, with weights that are the same numbers on every machine."""
    layers = [
        nn.Conv2d(3, 16, 3, padding=1),
        nn.ReLU(),
        nn.Conv2d(16, 32, 3, 2, 1),
        nn.ReLU(),
        nn.Conv2d(32, 32, 3, padding=1, bias=False),
        nn.ReLU(),
        nn.Conv2d(32, 8, 1),
    ]
    generator = torch.Generator().manual_seed(7)
    with torch.no_grad():
        for layer in layers:
            for weight in layer.parameters():
                weight.copy_((torch.rand(weight.shape, generator=generator) - 0.5) / weight[0].numel() ** 0.5 * 3)
    return nn.Sequential(*layers).eval()


@pytest.fixture(params=["kernel", "without a compiler"])
def compiled(request, monkeypatch):
    """Both ways to round; the second is that of machines without a compiler."""
    if request.param != "kernel":
        for module in (rounding, windows):
            monkeypatch.setattr(module, "rounding_kernel", lambda: None)
    elif windows.rounding_kernel() is None:
        pytest.skip("no compiler, or no fused products")


@pytest.mark.usefixtures("compiled")
def test_codes_are_those_of_earlier_versions():
    graph = trace(network())
    assert graph is not None
    rounder = WeightRounder(fuse(graph))
    rounder.round(torch.rand(32, 3, 16, 16, generator=torch.Generator().manual_seed(8)))
    codes = b"".join(rounded.codes.numpy().tobytes() for rounded in rounder.rounded.values())
    assert hashlib.sha256(codes).hexdigest()[:16] == _DIGEST


def test_what_nobody_reads_is_not_computed():
    """The last convolution is rounded for its input; its result is for those who want it."""
    graph = trace(network())
    assert graph is not None
    fused = fuse(graph)
    x = torch.rand(4, 3, 16, 16)
    alone, whole = WeightRounder(fused), WeightRounder(fused)
    assert alone.round(x, wanted=False) is None
    result = whole.round(x)
    assert result is not None
    torch.testing.assert_close(result, fused.double()(x.double()), rtol=1e-12, atol=1e-12)
    assert alone.rounded.keys() == whole.rounded.keys()
    assert all(torch.equal(alone.rounded[name].codes, whole.rounded[name].codes) for name in alone.rounded)


def test_the_last_digits_of_moments_decide_no_code(monkeypatch):
    """Taps that see the same pixels have equal moments but for the order of their sums."""
    torch.manual_seed(1)
    conv = nn.Conv2d(4, 12, 3, padding=2, dilation=2).eval()
    x = torch.zeros(16, 4, 9, 9, dtype=torch.float64)
    x[:, :, 3:6, 3:6] = torch.rand(16, 4, 3, 3, dtype=torch.float64)
    seen = Windows(conv, x)
    wanted = rounding.round_weights(conv, seen).codes
    moments = seen.moments()
    for seed in range(5):
        noise = torch.randn(moments.shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
        other = moments * (1 + 1e-15 * (noise + noise.permute(2, 3, 0, 1)))
        monkeypatch.setattr(seen, "moments", lambda other=other: other.clone())
        assert torch.equal(rounding.round_weights(conv, seen).codes, wanted)


@pytest.mark.usefixtures("compiled")
@pytest.mark.parametrize(("places", "filters"), [(27, 16), (45, 3), (64, 40), (1, 1)])
def test_each_weight_makes_up_for_the_errors_behind_it(places, filters):
    """One weight after the other in plain arithmetic, codes at the ends of their range among them."""
    generator = torch.Generator().manual_seed(places)
    shares = torch.rand(places, places, generator=generator, dtype=torch.float64) - 0.5
    units = 160 * torch.rand(places, filters, generator=generator, dtype=torch.float64) - 80
    units[0] = 140
    codes, errors = torch.zeros_like(units), torch.zeros_like(units)
    for k in reversed(range(places)):
        codes[k] = (units[k] + shares[k, k + 1 :] @ errors[k + 1 :]).round().clamp(-127, 127)
        errors[k] = units[k] - codes[k]
    assert torch.equal(rounding._round_in_turn(shares, units), codes)
    assert (codes[0] == 127).all()


@pytest.mark.usefixtures("compiled")
def test_the_layout_of_inputs_decides_no_code():
    """Maps of one row can lie so that padding takes them for channels last, and puts rows innermost."""
    x = torch.randn(8, 7, 32, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    odd = x.transpose(1, 2).unsqueeze(-1).transpose(2, 3)  # [8, 32, 1, 7]
    torch.manual_seed(1)
    conv = nn.Conv2d(32, 16, (1, 3), padding=(1, 1))
    plain = odd.clone(memory_format=torch.contiguous_format)
    codes = [rounding.round_weights(conv, Windows(conv, of)).codes for of in (odd, plain)]
    assert torch.equal(*codes)
