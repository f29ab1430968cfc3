"""What a request may ask for, and how many requests are taken in."""

from typing import Self

from pydantic import BaseModel, Field, model_validator

KIB = 1024
MIB = 1024 * KIB


class LimitSettings(BaseModel):
    """Limits of requests. The defaults are chosen: what one caller can cost stays bounded on one machine."""

    n_max: int = Field(
        default=1_000_000,  # ten times the n of Cohen et al. (2019), section 4
        ge=1,
        description="Most noises a request may ask for: bounds what one caller can cost.",
    )
    n0_max: int = Field(
        default=100_000,  # a thousand times the n0 of Cohen et al.
        ge=1,
        description="Most selection noises a request may ask for.",
    )
    alpha_min: float = Field(
        default=1e-12,
        gt=0,
        lt=1,
        description="Smallest failure probability a request may ask for; below it no n helps.",
    )
    deadline_ms_max: int = Field(
        default=600_000,  # ten minutes: proxies and clients give up sooner
        ge=1,
        description="Longest `deadline_ms` a request may ask for.",
    )
    max_client_batch_size: int = Field(
        default=32,  # as text-embeddings-inference
        ge=1,
        description="Most images in one prediction request; --max-concurrent-per-caller bounds them, too.",
    )
    max_body_bytes: int = Field(
        default=16 * MIB,  # a photograph of 25 megapixels as JPEG, in base64
        ge=KIB,
        description="Largest request body; what is larger is refused while it arrives.",
    )
    max_pixels: int = Field(
        default=25_000_000,  # a photograph of 5,800 x 4,300
        ge=1,
        description="Most pixels an image may have before it is resized: stops decompression bombs.",
    )
    max_concurrent_requests: int = Field(
        default=128,  # four times what runs: a queue of seconds, not of minutes
        ge=1,
        description="Requests taken in at the same time, running or waiting; one more is told to come back.",
    )
    max_running: int = Field(
        default=32,
        ge=1,
        description="Of these, how many are worked on: more fill the samplers' batches, fewer finish sooner.",
    )
    max_concurrent_per_caller: int | None = Field(
        default=None,
        ge=1,
        description="Of these, how many one API key (or address) may have: keeps room for the others.",
    )
    body_timeout_s: float = Field(
        default=30.0,  # 16 MiB at 4.5 Mbit/s
        gt=0,
        description="Time in which a request body must have arrived: frees what slow senders hold.",
    )
    decode_threads: int = Field(
        default=4, ge=1, description="Threads that decode images: more for large images on many cores."
    )
    allow_client_seed: bool = Field(
        default=False,
        description="Let callers choose the seed of their noises. For tests only: "
        "choosing among seeds makes false certificates likelier.",
    )

    @model_validator(mode="after")
    def _a_list_of_images_can_be_admitted(self) -> Self:
        if self.max_client_batch_size > self.max_concurrent_requests:
            raise ValueError("--max-client-batch-size must not exceed --max-concurrent-requests")
        return self

    @property
    def most_images(self) -> int:
        """Images in one prediction request: each needs a permit, and a caller has only so many."""
        return min(self.max_client_batch_size, self.max_concurrent_per_caller or self.max_client_batch_size)
