"""From an error answer to the exception that is raised for it."""

import email.utils
import time
from http import HTTPStatus
from typing import Any, cast

import httpx2
from pydantic import ValidationError

import spacte_client._exceptions as errors

from .types import Problem

EXCEPTIONS: dict[int | str, type[errors.APIStatusError]] = {
    400: errors.BadRequestError,
    401: errors.AuthenticationError,
    403: errors.PermissionDeniedError,
    404: errors.NotFoundError,
    409: errors.ConflictError,
    413: errors.RequestTooLargeError,
    415: errors.BadRequestError,
    422: errors.UnprocessableEntityError,
    429: errors.RateLimitError,
    503: errors.ServiceUnavailableError,
    "overloaded": errors.OverloadedError,
    "deadline_exceeded": errors.DeadlineExceededError,
}
"""By status, and by a problem's code where that says more."""


def error_from_response(response: httpx2.Response) -> errors.APIStatusError:
    """The exception for an answer with status 400 or above, whose body has been read."""
    problem = _problem_in(response) or _problem_about(response)
    return _exception(problem, response.headers.get("x-request-id"), _retry_delay(retry_after(response), problem))


def error_from_problem(problem: Problem) -> errors.APIStatusError:
    """The exception for a problem that came as an event of a stream."""
    return _exception(problem, problem.instance, problem.retry_after_s)


def problem_from(document: object) -> Problem | None:
    """A problem document, or None where `document` is not one.

    A newer service may use codes that this version does not know; they are kept as they are.
    """
    try:
        return Problem.model_validate(document)
    except ValidationError:
        fields = cast("dict[str, Any]", document) if isinstance(document, dict) else {}
        if isinstance(fields.get("detail"), str) and isinstance(fields.get("code"), str):
            values: dict[str, Any] = {"title": "", **fields, "status": int(fields.get("status", 500)), "errors": []}
            return Problem.model_construct(**values)
        return None


def retry_after(response: httpx2.Response) -> float | None:
    """Seconds of the header `Retry-After`: a number, or a date (RFC 9110, section 10.2.3)."""
    value = response.headers.get("retry-after")
    if value is None:
        return None
    try:
        return max(0.0, float(value))
    except ValueError:
        pass
    try:
        return max(0.0, email.utils.parsedate_to_datetime(value).timestamp() - time.time())
    except ValueError:
        return None


def _retry_delay(header: float | None, problem: Problem) -> float | None:
    """The time to wait: the document's, which has fractions, unless the header has another one than that rounded up."""
    exact = problem.retry_after_s
    if header is None or exact is None:
        return exact if header is None else header
    return exact if abs(header - exact) <= 1.0 else header


def _exception(problem: Problem, request_id: str | None, wait: float | None) -> errors.APIStatusError:
    kind = EXCEPTIONS.get(problem.code) or EXCEPTIONS.get(problem.status)
    if kind is None:
        kind = errors.InternalServerError if problem.status >= 500 else errors.APIStatusError
    return kind(problem, request_id=request_id or problem.instance, retry_after=wait)


def _problem_in(response: httpx2.Response) -> Problem | None:
    try:
        return problem_from(response.json())
    except ValueError:
        return None


def _problem_about(response: httpx2.Response) -> Problem:
    """What can be said of an error without a problem document: a proxy or another server sent it."""
    try:
        phrase = HTTPStatus(response.status_code).phrase
    except ValueError:
        phrase = "an unknown status"
    return Problem.model_construct(
        title=phrase,
        status=response.status_code,
        detail=(
            f"{response.request.url} answered {response.status_code} ({phrase}) without a problem document; "
            "check that the address is a SPACTE gateway's and what stands between it and you."
        ),
        code="not_a_problem_document",
    )
