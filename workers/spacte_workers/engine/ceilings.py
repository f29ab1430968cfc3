"""What this machine can do at most: multiply-adds per second in each precision, and bytes moved."""

import statistics
import time
from collections.abc import Callable

import torch
from torch import Tensor

_SIZE = {"cpu": 1024, "cuda": 8192}
_REPEATS = 5


def multiply_adds_per_second(precision: str, device: torch.device, size: int | None = None) -> float:
    """Median rate of a square matrix product through the library that the forms use.

    Args:
        precision: `fp32`, `bf16` or `int8` (CPU only).
        device: where.
        size: rows and columns; default large enough to reach the ceiling.
    """
    size = size or _SIZE[device.type]
    product = _int8_product(size) if precision == "int8" else _product(precision, device, size)
    product()
    times: list[float] = []
    for _ in range(_REPEATS):
        synchronize(device)
        started = time.perf_counter()
        product()
        synchronize(device)
        times.append(time.perf_counter() - started)
    return size**3 / statistics.median(times)


def bytes_per_second(device: torch.device) -> float:
    """Median rate of a large copy, bytes read plus bytes written."""
    source = torch.ones((1 << 28 if device.type == "cuda" else 1 << 24), device=device)
    target = torch.empty_like(source)
    times: list[float] = []
    for _ in range(_REPEATS + 1):
        synchronize(device)
        started = time.perf_counter()
        target.copy_(source)
        synchronize(device)
        times.append(time.perf_counter() - started)
    return 2 * source.nbytes / statistics.median(times[1:])


def synchronize(device: torch.device) -> None:
    """Wait for the device's work."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def _product(precision: str, device: torch.device, size: int) -> Callable[[], Tensor]:
    dtype = torch.float32 if precision == "fp32" else torch.bfloat16
    generator = torch.Generator().manual_seed(0)
    a, b = (torch.randn(size, size, generator=generator).to(device, dtype) for _ in range(2))
    return lambda: torch.nn.functional.linear(a, b)


def _int8_product(size: int) -> Callable[[], Tensor]:
    codes = torch.randint(0, 256, (size, size), dtype=torch.uint8)
    weight = torch.ops.onednn.qlinear_prepack(
        torch.randint(-127, 128, (size, size), dtype=torch.int8), [size, size]
    )
    scales, zeros = torch.full((size,), 0.01), torch.zeros(size, dtype=torch.int32)

    def product() -> Tensor:
        return torch.ops.onednn.qlinear_pointwise(
            codes, 0.01, 0, weight, scales, zeros, None, 1.0, 0, torch.float32, "none", [], ""
        )

    return product
