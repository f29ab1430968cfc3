"""Errors on the wire: RFC 9457 problem documents with a stable `code`."""

from typing import Literal

from pydantic import Field

from ._base import AnswerModel

__all__ = ["FieldProblem", "Problem", "ProblemCode"]

ProblemCode = Literal[
    "bad_image",
    "bad_request",
    "unauthenticated",
    "forbidden",
    "not_found",
    "model_not_found",
    "job_not_found",
    "file_not_found",
    "method_not_allowed",
    "idempotency_in_progress",
    "job_state",
    "file_in_use",
    "not_calibrated",
    "model_failed",
    "payload_too_large",
    "unsupported_media_type",
    "validation_failed",
    "idempotency_mismatch",
    "overloaded",
    "internal",
    "no_workers",
    "draining",
    "store_unavailable",
    "model_loading",
    "storage_full",
    "deadline_exceeded",
    "endpoint_failed",
]


class FieldProblem(AnswerModel):
    """One field of the request that is not as it should be."""

    pointer: str = Field(description="JSON pointer into the body, e.g. `/alpha`.")
    detail: str = Field(description="What is wrong with it.")


class Problem(AnswerModel):
    """Body of every answer with status 400 and above, `application/problem+json`."""

    type: str = Field(default="about:blank", description="URI of the kind of problem.")
    title: str = Field(description="The kind of problem in words.")
    status: int = Field(description="The HTTP status.")
    detail: str = Field(description="One sentence that names the remedy.")
    instance: str | None = Field(default=None, description="The request id.")
    code: ProblemCode = Field(description="The kind of problem, stable, for programs.")
    errors: list[FieldProblem] = Field(
        default_factory=list[FieldProblem], description="Each field that is wrong, for `validation_failed`."
    )
    retry_after_s: float | None = Field(default=None, description="Seconds until a retry is worth while.")
    quota: str | None = Field(default=None, description="The quota that is used up, where that is the reason.")
