"""Where noises are drawn, and in which arithmetic."""

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from spacte_workers.engine.precision_rule import MIN_AGREEMENT

from .group import Count, CountOrNone, Group


class SamplerSettings(Group):
    """The samplers of interactive requests; those of jobs follow the precision."""

    address: str | None = None
    """Address of a Ray cluster to join; else RAY_ADDRESS counts, or a local Ray is started."""
    in_process: bool = False
    """Draw noises in this process, without Ray: starts at once; for one machine."""
    samplers: CountOrNone = None
    """Most samplers to run; by default one for each GPU, else as many as there is room for."""
    samplers_min: Count = 1
    """Samplers to ask for even where there is no room, for Ray's autoscaler to see."""
    sampler_threads: CountOrNone = None
    """Cores of a sampler on CPUs; by default an eighth of a node's, one at least."""
    precision: Literal["auto", "fp32", "bf16", "int8"] = "auto"
    """Arithmetic of the votes; `auto` takes the fastest that the model passes its check in."""
    allow_int8: bool = False
    """Let `auto` choose int8, on CPUs."""
    min_agreement: Annotated[float, Field(ge=0, le=1)] = MIN_AGREEMENT
    """The check: smallest share of noisy images on which a precision must vote as float32 does."""
    portable: bool = False
    """Vote by kernels, in int8, whose votes are the same on every kind of x86 processor: for mixed clusters."""

    @model_validator(mode="after")
    def _interactive_samplers_are_a_range(self) -> Self:
        if self.samplers is not None and self.samplers < self.samplers_min:
            raise ValueError("--samplers must not be below --samplers-min")
        return self
