"""Where noises are drawn, and in which arithmetic."""

from typing import Literal

from pydantic import BaseModel, Field

from spacte_workers.engine.precision import MIN_AGREEMENT


class SamplerSettings(BaseModel):
    """The samplers of interactive requests; those of jobs follow the precision."""

    address: str | None = Field(
        default=None,
        description="Address of a Ray cluster to join; else RAY_ADDRESS counts, or a local Ray is started.",
    )
    in_process: bool = Field(
        default=False, description="Draw noises in this process, without Ray: starts at once; for one machine."
    )
    samplers: int | None = Field(
        default=None,
        ge=1,
        description="Most samplers to run; by default one for each GPU, else as many as there is room for.",
    )
    precision: Literal["auto", "fp32", "bf16", "int8"] = Field(
        default="auto",
        description="Arithmetic of the votes; `auto` takes the fastest that the model passes its check in.",
    )
    allow_int8: bool = Field(default=False, description="Let `auto` choose int8, on CPUs.")
    min_agreement: float = Field(
        default=MIN_AGREEMENT,
        ge=0,
        le=1,
        description="The check: smallest share of noisy images on which a precision must vote as float32 does.",
    )
