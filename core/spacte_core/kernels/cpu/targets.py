"""Instruction targets of the chain kernel, and which of them this machine has.

A chain's layers give the same codes on every target, for sums of codes are exact, and the same float32, whose sums
are in one order; bfloat16 is rounded in each target's own order.
"""

import ctypes
import logging
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import torch

from spacte_core.errors import UserError
from spacte_core.hardware import cpu_flags, cpu_info
from spacte_core.kernels.compiler import compile_library

from .chain_winograd import INTEL_VNNI, USUAL, Costs

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "int8": torch.uint8}
"""Of a chain's maps, by precision."""

VARIABLE = "SPACTE_CPU"
"""A target's name: the only one that kernels may use. Unset, the best that the machine has."""

_log = logging.getLogger(__name__)
_FOLDER = Path(__file__).parent
_BASE = ("-fopenmp", "-ffp-contract=off")


class CpuTargetError(UserError):
    """`SPACTE_CPU` names no target, or one that this machine has not."""


@dataclass(frozen=True)
class Target:
    """Instructions that a chain can be computed with.

    Attributes:
        name: as in `SPACTE_CPU`.
        form: the name of a form whose chains it computes.
        needs: for each kind of maps that it knows, what the processor must have, as Linux spells it.
        images: of a group.
        multiple: what the number of a result's channels has to be a multiple of.
        unit: for each kind of maps, how many channels lie together; None where the matrix units want tiles.
        source: the kernel's file.
        options: of the compiler.
        costs: of Winograd's way for codes, in direct products.
        intel: the same on Intel's processors, where they are others.
    """

    name: str
    form: str
    needs: Mapping[torch.dtype, frozenset[str]]
    images: int
    multiple: int
    unit: Mapping[torch.dtype, int] | None
    source: str = "chain_vectors.cpp"
    options: tuple[str, ...] = ()
    costs: Costs = USUAL
    intel: Costs | None = None

    def costs_here(self) -> Costs:
        """Those of this machine's processor."""
        return self.intel if self.intel and cpu_info().get("vendor_id") == "GenuineIntel" else self.costs

    def library(self, dtype: torch.dtype) -> ctypes.CDLL | None:
        """The compiled kernel; None where it does not run, or knows no such maps.

        A system refuses the tiles of AMX to a process of which a thread has a stack for signals that could not hold
        them.
        """
        if not self.needs.get(dtype, frozenset({"no such maps"})) <= cpu_flags():
            return None
        library = compile_library(_FOLDER / self.source, *_BASE, *self.options)
        if library is None:
            return None
        if self.unit is None and not library.spacte_amx_allowed():
            _log.warning("the system refuses this process the tiles of AMX: a signal stack may be too small for them")
            return None
        library.spacte_chain_scratch.restype = library.spacte_chain_products.restype = ctypes.c_int64
        library.spacte_chain.restype = None
        return library


def _needs(vectors: str, bf16: str = "") -> dict[torch.dtype, frozenset[str]]:
    """What maps of codes and of float32 need, and what those of bfloat16 need besides."""
    return _matrices(vectors, bf16) | {torch.float32: frozenset(vectors.split())}


def _matrices(codes: str, bf16: str) -> dict[torch.dtype, frozenset[str]]:
    kinds = {torch.uint8: codes, torch.bfloat16: f"{codes} {bf16}" if bf16 else ""}
    return {dtype: frozenset(flags.split()) for dtype, flags in kinds.items() if flags}


_AVX512 = ("-mavx512f", "-mavx512bw", "-mavx512vl", "-mfma")
_AVX2 = ("-mavx2", "-mfma")
_AMX, _VNNI = "amx_int8 amx_bf16 avx512_bf16", "avx512bw avx512vl avx512_vnni"
_BYTES = {torch.uint8: 4, torch.bfloat16: 2, torch.float32: 1}
_WORDS = {torch.uint8: 2, torch.float32: 1}

TARGETS = (
    Target("amx", "amx", _matrices(_AMX, _AMX), 16, 16, None, "chain_amx.cpp", ("-march=native",)),
    Target("avx512", "chain_avx512", _needs(_VNNI, "avx512_bf16"), 16, 4, _BYTES,
           options=(*_AVX512, "-mavx512vnni", "-mavx512bf16"), intel=INTEL_VNNI),
    Target("avx512bw", "chain_avx512bw", _needs("avx512bw avx512vl"), 16, 4, _WORDS, options=_AVX512),
    Target("avx_vnni", "chain_avx_vnni", _needs("avx2 fma avx_vnni"), 8, 4, _BYTES, options=(*_AVX2, "-mavxvnni")),
    Target("avx2", "chain_avx2", _needs("avx2 fma"), 8, 4, _WORDS, options=_AVX2),
    Target("neon_i8mm", "chain_neon_i8mm", _needs("asimd i8mm"), 4, 4, _BYTES, options=("-march=armv8.2-a+i8mm",),
           costs=USUAL._replace(words=5.0)),  # four instructions in place of one
    Target("neon", "chain_neon", _needs("asimd"), 4, 4, _WORDS),
)  # fmt: skip
"""The fastest first."""


def forced() -> str | None:
    """The target that `SPACTE_CPU` names; None where it is not set.

    Raises:
        CpuTargetError: there is no such target, or not here.
    """
    name = os.environ.get(VARIABLE, "").strip().lower()
    if not name:
        return None
    named = {target.name: target for target in TARGETS}
    if name not in named or not runs(named[name]):
        raise CpuTargetError(f"{VARIABLE} is {name!r}: on this machine use one of {', '.join(_here()) or 'none'}.")
    return name


def targets_for(dtype: torch.dtype, form: str | None = None) -> Iterator[Target]:
    """The targets for maps of a kind that may be used here, the best first.

    Args:
        dtype: uint8 for codes, bfloat16 or float32.
        form: the name of a form, if only its target will do.
    """
    only = forced()
    if only == "amx" and dtype == torch.float32:
        only = "avx512"  # which such a processor has, too; matrix units have no float32
    for target in TARGETS:
        wanted = only in (None, target.name) and form in (None, target.form)
        if wanted and target.library(dtype) is not None:
            yield target


def target_for(dtype: torch.dtype, form: str | None = None) -> Target | None:
    """The best of them; None where there is none."""
    return next(targets_for(dtype, form), None)


def runs(target: Target) -> bool:
    """Whether this machine has the target's instructions."""
    return any(flags <= cpu_flags() for flags in target.needs.values())


@cache
def _here() -> list[str]:
    return [target.name for target in TARGETS if runs(target)]
