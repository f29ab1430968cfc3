"""Where noises are drawn, and in which arithmetic."""

from typing import Annotated, Literal

from pydantic import Field

from spacte_workers.engine.precision_rule import MIN_AGREEMENT

from .group import CountOrNone, Group


class SamplerSettings(Group):
    """The samplers of interactive requests; those of jobs follow the precision."""

    address: str | None = None
    """Address of a Ray cluster to join; else RAY_ADDRESS counts, or a local Ray is started."""
    in_process: bool = False
    """Draw noises in this process, without Ray: starts at once; for one machine."""
    samplers: CountOrNone = None
    """Most samplers to run; by default one for each GPU, else as many as there is room for."""
    precision: Literal["auto", "fp32", "bf16", "int8"] = "auto"
    """Arithmetic of the votes; `auto` takes the fastest that the model passes its check in."""
    allow_int8: bool = False
    """Let `auto` choose int8, on CPUs."""
    min_agreement: Annotated[float, Field(ge=0, le=1)] = MIN_AGREEMENT
    """The check: smallest share of noisy images on which a precision must vote as float32 does."""
    portable: bool = False
    """Vote by kernels, in int8, whose votes are the same on every kind of x86 processor: for mixed clusters."""
