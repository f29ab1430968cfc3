"""What this machine is: its processor's name and instructions, its devices, whether they have bf16 and it pays."""

import os
import platform
import shutil
from functools import cache
from importlib.util import find_spec
from pathlib import Path

import torch

from .errors import DeviceError

_CPUINFO = Path("/proc/cpuinfo")


@cache
def cpu_info() -> dict[str, str]:
    """The first processor's fields in /proc/cpuinfo, by name; empty where the system has no such file."""
    if not _CPUINFO.exists():
        return {}
    first, _, _ = _CPUINFO.read_text().partition("\n\n")
    fields = (line.partition(":") for line in first.splitlines())
    return {name.strip(): value.strip() for name, _, value in fields}


def cpu_flags() -> frozenset[str]:
    """Names of the processor's instruction sets, as Linux spells them; empty where it cannot be told."""
    info = cpu_info()
    return frozenset((info.get("flags") or info.get("Features") or "").split())


def cpu_name() -> str:
    """The processor's model name, or the architecture where the system does not say."""
    return cpu_info().get("model name") or platform.processor() or platform.machine()


def has_bf16(device: torch.device) -> bool:
    """Whether bf16 is faster than float32 on `device`.

    Among CPUs these are the ones with AMX, and AMD's with AVX-512 BF16. Intel's AVX-512 BF16 without AMX has the
    instructions, but they multiply no faster than float32: ResNet-20 trained at 0.75 of its speed.
    """
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    amd = cpu_info().get("vendor_id") == "AuthenticAMD"
    return device.type == "cpu" and ("amx_bf16" in cpu_flags() or (amd and "avx512_bf16" in cpu_flags()))


def computes_bf16(device: torch.device) -> bool:
    """Whether `device` has instructions for bf16.

    A CPU without them (x86 without AVX-512, AVX-NE-CONVERT and AMX) computes it value by value: ResNet-20 ran at a
    twentieth of float32's rate, so that nobody who asks for bf16 wants that.
    """
    if device.type != "cpu":
        return True
    try:
        return bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())  # noqa: SLF001  it has no public name
    except (AttributeError, RuntimeError):  # a PyTorch without oneDNN
        return False


NO_BF16 = "bf16 needs instructions that this machine's processor lacks (AVX-512, AVX-NE-CONVERT or AMX)"
"""The start of a sentence that ends with the remedy."""


def choose_device(name: str | None) -> torch.device:
    """The device of that name; for None the accelerator where there is one, else the CPU.

    Raises:
        DeviceError: there is no such device here.
    """
    if name is None:
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        raise DeviceError(f"There is no device {name!r} here: use cpu, or cuda where there is one.") from error
    return device


@cache
def has_triton() -> bool:
    """Whether kernels for a GPU can be compiled here: there is Triton, and a C compiler for what launches them."""
    compiler = os.environ.get("CC") or shutil.which("gcc") or shutil.which("clang")
    return find_spec("triton") is not None and compiler is not None
