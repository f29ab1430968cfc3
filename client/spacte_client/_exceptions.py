"""Everything that this package raises.

* SpacteError
  x InvalidArgumentError          an argument is wrong; nothing was sent (also a ValueError)
  x WaitTimeoutError              `jobs.wait` ran out of time; the job goes on (also a TimeoutError)
  x APIError
    + APIConnectionError          no answer: nothing there, or the connection broke
      - APITimeoutError           no answer in time
    + APIResponseError            an answer, but not one of a SPACTE gateway
    + APIStatusError              a problem document: status, code, sentence, request id
      - BadRequestError           400, 415
      - AuthenticationError       401
      - PermissionDeniedError     403
      - NotFoundError             404
      - ConflictError             409
      - RequestTooLargeError      413
      - UnprocessableEntityError  422
      - RateLimitError            429
        · OverloadedError         429 from the gateway's own admission
      - InternalServerError       500 and above
        · ServiceUnavailableError 503
        · DeadlineExceededError   504 before anything was proven
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .types import Problem

__all__ = [
    "APIConnectionError",
    "APIError",
    "APIResponseError",
    "APIStatusError",
    "APITimeoutError",
    "AuthenticationError",
    "BadRequestError",
    "ConflictError",
    "DeadlineExceededError",
    "InternalServerError",
    "InvalidArgumentError",
    "NotFoundError",
    "OverloadedError",
    "PermissionDeniedError",
    "RateLimitError",
    "RequestTooLargeError",
    "ServiceUnavailableError",
    "SpacteError",
    "UnprocessableEntityError",
    "WaitTimeoutError",
]


class SpacteError(Exception):
    """Base of every error of this package. `message` is one sentence that names the remedy."""

    def __init__(self, message: str) -> None:
        super().__init__(message)
        self.message = message


class InvalidArgumentError(SpacteError, ValueError):
    """An argument is wrong. Raised before anything is sent."""


class WaitTimeoutError(SpacteError, TimeoutError):
    """A job had not ended by the time that the caller was ready to wait. The job goes on."""


class APIError(SpacteError):
    """A request that was not answered as asked."""


class APIConnectionError(APIError):
    """No answer: nothing listens at the address, or the connection broke."""


class APITimeoutError(APIConnectionError):
    """No answer within the timeout.

    Attributes:
        sent: whether the request was sent, so that the gateway may have been at work on it.
    """

    def __init__(self, message: str, *, sent: bool = False) -> None:
        super().__init__(message)
        self.sent = sent


class APIResponseError(APIError):
    """An answer that the API does not provide for: another server, or a version too far from this one."""


class APIStatusError(APIError):
    """The gateway answered with a problem.

    Attributes:
        status_code: the HTTP status.
        problem: the problem document as sent, or one made from the status where another server answered.
        request_id: what the gateway's logs call this request, if it was named.
        retry_after: seconds until a retry is worth while, if the gateway said so.
    """

    def __init__(self, problem: Problem, *, request_id: str | None = None, retry_after: float | None = None) -> None:
        super().__init__(problem.detail)
        self.problem = problem
        self.status_code = problem.status
        self.request_id = request_id
        self.retry_after = retry_after

    @property
    def code(self) -> str:
        """The kind of problem, stable, for programs: one of `spacte_client.types.ProblemCode`."""
        return self.problem.code

    def __str__(self) -> str:
        name = f", {self.request_id}" if self.request_id else ""
        return f"{self.message} [{self.status_code} {self.code}{name}]"


class BadRequestError(APIStatusError):
    """400 or 415: the body or the image cannot be read."""


class AuthenticationError(APIStatusError):
    """401: the API key is missing or not known."""


class PermissionDeniedError(APIStatusError):
    """403: the API key may not do this."""


class NotFoundError(APIStatusError):
    """404: no such model, job, file or route."""


class ConflictError(APIStatusError):
    """409: the state of the job or file does not allow it."""


class RequestTooLargeError(APIStatusError):
    """413: the body is above the gateway's limit, which `info()` shows."""


class UnprocessableEntityError(APIStatusError):
    """422: a field is not as it should be; `problem.errors` points at it."""


class RateLimitError(APIStatusError):
    """429: too many requests."""


class OverloadedError(RateLimitError):
    """429: the gateway's queue is full."""


class InternalServerError(APIStatusError):
    """500 and above: the gateway failed."""


class ServiceUnavailableError(InternalServerError):
    """503: no sampler is alive, the model is loading, or the gateway is shutting down."""


class DeadlineExceededError(InternalServerError):
    """504: the deadline passed before the bound was looked at once."""


# Tracebacks name the place that callers import from.
for _name in __all__:
    globals()[_name].__module__ = "spacte_client"
