"""Server-sent events: the proof of one certificate as it grows, and the life of a job.

On the wire the kind is the event's name (`event: progress`) and the fields are its data. Here each event
carries its kind as `event`, so that a program can tell them apart with `match`.
"""

from datetime import datetime
from typing import Annotated, Literal

from pydantic import Field

from ._base import AnswerModel
from .certificates import Certificate
from .jobs import JobCounts, JobError, JobState
from .problems import Problem

__all__ = [
    "CertifyEvent",
    "ErrorEvent",
    "JobEvent",
    "JobProgressEvent",
    "JobStateEvent",
    "ProgressEvent",
    "ResultEvent",
    "StartedEvent",
]


class StartedEvent(AnswerModel):
    """First event of `POST /v1/certify/stream`: the image is decoded and the samplers are drawing."""

    event: Literal["started"] = Field(default="started", description="The event's name.")
    request_id: str = Field(description="`req_...`")
    model: str = Field(description="The model's name.")
    n_max: int = Field(description="Estimation noises that the request allows.")
    looks: int = Field(description="The most often that the bound will be looked at.")


class ProgressEvent(AnswerModel):
    """What is proven so far, at most ten times a second. True whichever event the caller stops at."""

    event: Literal["progress"] = Field(default="progress", description="The event's name.")
    samples: int = Field(description="Estimation noises drawn.")
    top_label: int = Field(description="The class chosen by the selection noises.")
    p_lower: float = Field(description="Lower confidence bound on its probability under noise.")
    radius: float = Field(ge=0, description="L2 radius proven, rounded down; 0 while nothing is.")
    looks_done: int = Field(description="How often the bound was looked at.")
    eta_ms: float | None = Field(default=None, description="Time to `n_max` at the present rate.")
    certificate: Certificate | None = Field(
        default=None,
        description="The whole certificate that stands if the caller stops here, where the service sends it.",
    )


class ResultEvent(AnswerModel):
    """Last event of a stream that succeeds. On the wire the certificate is the event's data."""

    event: Literal["result"] = Field(default="result", description="The event's name.")
    certificate: Certificate = Field(description="The answer.")


class ErrorEvent(AnswerModel):
    """Last event of a stream that fails. On the wire the problem is the event's data."""

    event: Literal["error"] = Field(default="error", description="The event's name.")
    problem: Problem = Field(description="What went wrong.")


CertifyEvent = Annotated[StartedEvent | ProgressEvent | ResultEvent | ErrorEvent, Field(discriminator="event")]


class JobStateEvent(AnswerModel):
    """A job changed its state."""

    event: Literal["state"] = Field(default="state", description="The event's name.")
    state: JobState = Field(description="The state it is in now.")
    at: datetime = Field(description="Since when, UTC.")
    error: JobError | None = Field(default=None, description="Why, where the state is `failed` or `interrupted`.")


class JobProgressEvent(AnswerModel):
    """A job finished more images."""

    event: Literal["progress"] = Field(default="progress", description="The event's name.")
    counts: JobCounts = Field(description="How far it is.")
    images_per_minute: float | None = Field(default=None, description="Over the last minute or so.")
    eta_s: float | None = Field(default=None, description="Seconds to the end at that rate.")


JobEvent = Annotated[JobStateEvent | JobProgressEvent, Field(discriminator="event")]
