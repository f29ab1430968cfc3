"""What this machine is good at: bf16 or not, and an allocator that keeps the memory it was given."""

import ctypes
import platform
from functools import cache
from pathlib import Path

import torch

from spacte_trainer.config import ConfigError, TrainConfig

M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3


def has_bf16(device: torch.device) -> bool:
    """Whether bf16 is faster than float32 on `device`.

    Among CPUs these are the ones with AMX, and AMD's with AVX-512 BF16. Intel's AVX-512 BF16 without AMX has the
    instructions, but they multiply no faster than float32: ResNet-20 trained at 0.75 of its speed.
    """
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    cpuinfo = Path("/proc/cpuinfo")
    if device.type != "cpu" or not cpuinfo.exists():
        return False
    found = cpuinfo.read_text()
    return "amx_bf16" in found or ("AuthenticAMD" in found and "avx512_bf16" in found)


def resolve_precision(config: TrainConfig, device: torch.device) -> TrainConfig:
    """The configuration, and what it starts from, with `precision="auto"` decided for `device`."""
    decided: dict[str, object] = {}
    if config.precision == "auto":
        decided["precision"] = "bf16" if has_bf16(device) else "float32"
    if config.pretrain is not None:
        decided["pretrain"] = resolve_precision(config.pretrain, device)
    return config.model_copy(update=decided)


def choose_device(name: str | None) -> torch.device:
    """The device of that name; for None the accelerator where there is one, else the CPU.

    Raises:
        ConfigError: there is no such device here.
    """
    if name is None:
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        raise ConfigError(
            f"There is no device {name!r} here: use cpu, or cuda where there is one."
        ) from error
    return device


@cache
def keep_freed_memory() -> None:
    """Tell glibc to keep freed memory in the process instead of returning it after every layer.

    A training step on a CPU otherwise spends much of its time on page faults. Another libc is left alone.
    """
    if platform.libc_ver()[0] == "glibc":
        libc = ctypes.CDLL(None)
        libc.mallopt(M_MMAP_THRESHOLD, 1 << 30)
        libc.mallopt(M_TRIM_THRESHOLD, (1 << 31) - 1)
