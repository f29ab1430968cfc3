"""Names of kernels: a form, and the instructions that its arithmetic depends on.

Kernels of one form round differently where processors have other instructions, so that both belong to the function that
votes. Samplers of one certificate have the same, and the certificate names them.
"""

import os
import platform

import torch

from spacte_client.types import Precision
from spacte_core.hardware import cpu_flags

from .errors import NoSuchKernelsError

_EXTENSIONS = ("amx_int8", "avx512_fp16", "avx512_bf16", "avx512_vnni", "avx512f", "avx_vnni", "avx2")
"""Instruction sets by which libraries choose kernels, the most recent first."""

PORTABLE = "portable"
"""The form whose bits are the same on every kind of x86 processor; the name is that of `spacte_core.kernels`."""

ENDPOINT, BEFORE_ENDPOINT = "endpoint", "before_endpoint"
"""Forms that another machine computes, alone and after layers that are computed here."""

_ELSEWHERE = (PORTABLE, ENDPOINT)
"""Forms that do not hang on this machine's instructions."""

_LIMIT = "ONEDNN_MAX_CPU_ISA"  # oneDNN's variable that keeps it from instruction sets
_USUAL: dict[str, str] = {"fp32": "winograd", "bf16": "onednn", "int8": "int8"}


def kernels_name(form: str, device: torch.device, fit: str = "") -> str:
    """Such as `onednn/avx512_bf16`, `amx/amx_int8/0c4f88ab91d2` or `compiled/NVIDIA H100 80GB HBM3`.

    `portable/0c4f88ab91d2` names no instructions: the bits are the same with all that such kernels run on.

    Args:
        form: its name.
        device: where it runs.
        fit: what int8 was fitted to, as a digest.
    """
    instructions = "" if form in _ELSEWHERE else _instructions(device)
    return "/".join(part for part in (form, instructions, fit) if part)


def form_in(kernels: str, device: torch.device) -> str:
    """The form in a name of kernels, which may be that of a form alone.

    Raises:
        NoSuchKernelsError: it names other instructions than this device has.
    """
    form, _, rest = kernels.partition("/")
    if rest and form not in _ELSEWHERE and rest.partition("/")[0] != _instructions(device):
        raise NoSuchKernelsError(kernels)
    return form


def usual_kernels(precision: Precision, device: torch.device) -> str | None:
    """What most likely computed a certificate that names no kernels; None where there is no telling."""
    return kernels_name(_USUAL[precision], device) if device.type == "cpu" else None


def _instructions(device: torch.device) -> str:
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    extension = next((name for name in _EXTENSIONS if name in cpu_flags()), platform.machine())
    limit = os.environ.get(_LIMIT, "").lower()
    return f"{extension} up to {limit}" if limit else extension
