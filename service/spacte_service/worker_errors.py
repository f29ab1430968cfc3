"""From the workers' errors to problem documents."""

from collections.abc import Generator
from contextlib import contextmanager

from spacte_client.types import FieldProblem, ProblemCode
from spacte_workers.errors import (
    BadParameterError,
    ClusterError,
    DeadlineExceededError,
    EndpointError,
    EndpointFaultError,
    ModelLoadError,
    ModelNotFoundError,
    ModelNotNamedError,
    ModelNotReadyError,
    NotCalibratedError,
    NoWorkersError,
    RuntimeFault,
)
from spacte_workers.images import BadImageError
from spacte_workers.serving.server_paths import without_paths

from .problems import ProblemError, field_error

CODES: dict[type[RuntimeFault], ProblemCode] = {
    ModelNotNamedError: "bad_request",
    ModelNotFoundError: "model_not_found",
    ModelNotReadyError: "model_loading",
    ModelLoadError: "bad_request",
    NoWorkersError: "no_workers",
    ClusterError: "no_workers",
    DeadlineExceededError: "deadline_exceeded",
    NotCalibratedError: "not_calibrated",
    EndpointError: "endpoint_failed",
    EndpointFaultError: "model_failed",
}

RETRY_AFTER_S: dict[ProblemCode, float] = {"no_workers": 5.0, "model_loading": 2.0}
"""Chosen: a sampler is started anew in a second or two, a node in about ten, and a small model is loaded in two."""


@contextmanager
def worker_errors_as_problems(image: str = "/image") -> Generator[None]:
    """Raise the workers' errors as problems; `image` points to the image that was worked on."""
    try:
        yield
    except (RuntimeFault, BadImageError) as error:
        raise to_problem_error(error, image) from error


def to_problem_error(error: RuntimeFault | BadImageError, image: str = "/image") -> ProblemError:
    """The problem that describes an error of the workers; their messages are already sentences for callers."""
    if isinstance(error, BadImageError):
        return ProblemError("bad_image", str(error), errors=[FieldProblem(pointer=image, detail=str(error))])
    if isinstance(error, BadParameterError):
        return field_error(f"/{error.field}", str(error))
    if isinstance(error, ModelNotReadyError) and error.state != "loading":
        # It will not become ready by waiting, so the caller is not told to try again.
        return ProblemError("model_failed" if error.state == "failed" else "model_not_found", str(error))
    codes: list[ProblemCode] = [code for kind, code in CODES.items() if isinstance(error, kind)]
    code = codes[0] if codes else "internal"
    sentence = without_paths(str(error)) if isinstance(error, ModelLoadError) else str(error)
    return ProblemError(code, sentence, retry_after_s=RETRY_AFTER_S.get(code))
