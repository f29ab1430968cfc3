"""What a request may ask for, and how many requests are taken in."""

from pathlib import Path
from typing import Annotated, Self

from pydantic import Field, field_validator, model_validator

from spacte_workers.seeds import SEED_BYTES

from .group import Count, CountOrNone, Group

KIB = 1024
MIB = 1024 * KIB

Bytes = Annotated[int, Field(ge=KIB)]


class LimitSettings(Group):
    """Limits of requests. The defaults are chosen: what one caller can cost stays bounded on one machine."""

    n_max: Count = 1_000_000  # ten times the n of Cohen et al. (2019), section 4
    """Most noises a request may ask for: bounds what one caller can cost."""
    n0_max: Count = 100_000  # a thousand times the n0 of Cohen et al.
    """Most selection noises a request may ask for."""
    alpha_min: Annotated[float, Field(gt=0, lt=1)] = 1e-12
    """Smallest failure probability a request may ask for; below it no n helps."""
    deadline_ms_max: Count = 600_000  # ten minutes: proxies and clients give up sooner
    """Longest `deadline_ms` a request may ask for."""
    max_client_batch_size: Count = 32  # as text-embeddings-inference
    """Most images in one prediction request; --max-concurrent-per-caller bounds them, too."""
    max_body_bytes: Bytes = 16 * MIB  # a photograph of 25 megapixels as JPEG, in base64
    """Largest request body; what is larger is refused while it arrives."""
    max_pixels: Count = 25_000_000  # a photograph of 5,800 x 4,300
    """Most pixels an image may have before it is resized: stops decompression bombs."""
    answer_within_s: Annotated[float, Field(gt=0)] = 30.0  # half of what proxies wait for an answer
    """Time in which a request without a deadline is answered: one that the samplers, at their measured rate, could
    not answer by then is told when to come back. One that takes longer than half of it waits as long as it takes."""
    max_concurrent_requests: Count = 128  # four times what runs: a queue of seconds, not of minutes
    """Requests taken in at the same time, running or waiting; one more is told to come back."""
    max_running: Count = 32  # fills the samplers' batches with every caller's next few shards
    """Of these, how many are worked on: more fill the samplers' batches, fewer finish sooner."""
    max_concurrent_per_caller: CountOrNone = None
    """Of these, how many one API key (or address) may have: keeps room for the others."""
    body_timeout_s: Annotated[float, Field(gt=0)] = 30.0  # 16 MiB at 4.5 Mbit/s
    """Time in which a request body must have arrived: frees what slow senders hold."""
    memory_bytes: Annotated[int, Field(ge=64 * MIB)] = 2048 * MIB  # pictures of 25 megapixels, two at a time
    """Memory for what callers send, beside models and samplers: half of it for pictures that are decoded, shared
    evenly among --decode-processes, a quarter for bodies that arrive or are worked on, a quarter for inputs of jobs
    that are open. What needs more is refused."""
    decode_processes: Count = 2  # decoding an image takes a millisecond or two
    """Processes that decode images, 50 MB each: more for large images on many cores."""
    allow_client_seed: bool = False
    """Let callers choose the seed of their noises. For tests only:
    choosing among seeds makes false certificates likelier."""
    seed_secret_file: Path | None = None
    """File with a secret of 16 bytes or more, from which the seed of each request for one image follows (HMAC):
    asking again gives the same votes, so that nobody can try for luckier ones."""

    @field_validator("seed_secret_file")
    @classmethod
    def _a_secret_that_cannot_be_guessed(cls, path: Path | None) -> Path | None:
        try:
            short = path is not None and len(path.read_bytes()) < SEED_BYTES
        except OSError as error:
            raise ValueError(f"{path} cannot be read ({error.strerror})") from error
        if short:
            raise ValueError(f"{path} has less than {SEED_BYTES} bytes; make it with: openssl rand -out FILE 32")
        return path

    @property
    def seed_secret(self) -> bytes | None:
        """What `seed_secret_file` holds."""
        return None if self.seed_secret_file is None else self.seed_secret_file.read_bytes()

    @model_validator(mode="after")
    def _a_list_of_images_can_be_admitted(self) -> Self:
        if self.max_client_batch_size > self.max_concurrent_requests:
            raise ValueError("--max-client-batch-size must not exceed --max-concurrent-requests")
        return self

    @property
    def picture_bytes(self) -> int:
        """The part of the memory for pictures that are decoded."""
        return self.memory_bytes // 2

    @property
    def bodies_bytes(self) -> int:
        """The part for bodies."""
        return self.memory_bytes // 4

    @property
    def input_bytes(self) -> int:
        """The part for inputs of jobs."""
        return self.memory_bytes // 4

    @property
    def most_images(self) -> int:
        """Images in one prediction request: each needs a permit, and a caller has only so many."""
        return min(self.max_client_batch_size, self.max_concurrent_per_caller or self.max_client_batch_size)
