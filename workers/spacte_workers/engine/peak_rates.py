"""What this machine can do at most: multiply-adds per second in each precision, and bytes moved.

A ceiling is the best that the library behind the forms reaches on a few large products of different shape, and on CPUs
the rate of products of tiles or vectors without a load or a store. One shape is not enough: matrix units need tall
products or convolutions to be kept busy, and reach less than half of their rate in a square product that would fill a
vector unit (benchmarks/results/engine_cpu.md).
"""

import statistics
import time
from collections.abc import Callable, Iterator

import torch
from torch import Tensor
from torch.nn import functional

from spacte_core.kernel_switch import kernels_enabled

_LINEAR = {"cpu": ((1024, 1024, 1024), (4096, 1024, 1024)), "cuda": ((8192, 8192, 8192),)}
"""Rows, inputs and outputs of the linear layers. Chosen: milliseconds each."""

_CONVOLUTIONS = {"cpu": ((32, 128, 32), (16, 512, 28)), "cuda": ((256, 128, 32),)}
"""Images, channels in and out, and side of the 3 x 3 convolutions, with few channels and with many."""

_COPIED = {"cpu": 1 << 24, "cuda": 1 << 28}  # float32 values of the copy. Chosen: more than any cache holds
_REPEATS = 5
_BARE = {"bf16": torch.bfloat16, "int8": torch.uint8}


def multiply_adds_per_second(precision: str, device: torch.device) -> float:
    """The best median rate over large products, and on CPUs over those without loads and stores.

    Args:
        precision: `fp32`, `bf16` or `int8` (CPU only).
        device: where.
    """
    return max(_rate(product, work, device) for product, work in _products(precision, device))


def bytes_per_second(device: torch.device) -> float:
    """Median rate of a large copy, bytes read plus bytes written."""
    source = torch.ones(_COPIED[device.type], device=device)
    target = torch.empty_like(source)
    return _rate(lambda: target.copy_(source), 2 * source.nbytes, device)


def synchronize(device: torch.device) -> None:
    """Wait for the device's work."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def _rate(task: Callable[[], object], work: float, device: torch.device) -> float:
    """Work per second, the median of a few runs after one to warm up."""
    times: list[float] = []
    with torch.inference_mode():
        for _ in range(_REPEATS + 1):
            synchronize(device)
            started = time.perf_counter()
            task()
            synchronize(device)
            times.append(time.perf_counter() - started)
    return work / statistics.median(times[1:])


def _products(precision: str, device: torch.device) -> Iterator[tuple[Callable[[], object], int]]:
    """Products with their multiply-adds."""
    if device.type == "cpu" and precision in _BARE and kernels_enabled("chain"):
        from spacte_core.kernels.cpu.chain import bare_products

        bare = bare_products(_BARE[precision])
        if bare is not None:
            yield bare, bare()
    for rows, inputs, outputs in _LINEAR[device.type]:
        yield _linear(precision, device, rows, inputs, outputs), rows * inputs * outputs
    if precision != "int8":
        for images, channels, side in _CONVOLUTIONS[device.type]:
            product = _convolution(precision, device, images, channels, side)
            yield product, images * (side * channels * 3) ** 2


def _linear(precision: str, device: torch.device, rows: int, inputs: int, outputs: int) -> Callable[[], Tensor]:
    if precision == "int8":
        return _int8_linear(rows, inputs, outputs)
    x, weight = (_normals(precision, device, count, inputs) for count in (rows, outputs))
    return lambda: functional.linear(x, weight)


def _convolution(precision: str, device: torch.device, images: int, channels: int, side: int) -> Callable[[], Tensor]:
    order = torch.channels_last
    x = _normals(precision, device, images, channels, side, side).contiguous(memory_format=order)
    weight = _normals(precision, device, channels, channels, 3, 3).contiguous(memory_format=order)
    return lambda: functional.conv2d(x, weight, padding=1)


def _int8_linear(rows: int, inputs: int, outputs: int) -> Callable[[], Tensor]:
    codes = torch.randint(0, 256, (rows, inputs), dtype=torch.uint8)
    codes_OI = torch.randint(-127, 128, (outputs, inputs), dtype=torch.int8)
    weight = torch.ops.onednn.qlinear_prepack(codes_OI, [rows, inputs])
    scales, zeros = torch.full((outputs,), 0.01), torch.zeros(outputs, dtype=torch.int32)
    arguments = (codes, 0.01, 0, weight, scales, zeros, None, 1.0, 0, torch.uint8, "none", [], "")
    return lambda: torch.ops.onednn.qlinear_pointwise(*arguments)


def _normals(precision: str, device: torch.device, *shape: int) -> Tensor:
    dtype = torch.float32 if precision == "fp32" else torch.bfloat16
    return torch.randn(shape, generator=torch.Generator().manual_seed(0)).to(device, dtype)
