"""Every error as an RFC 9457 problem document: one sentence that names the remedy, and a stable code."""

import json
import math
from collections.abc import Mapping, Sequence
from http import HTTPStatus
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException
from starlette.types import Scope

from spacte_client.types import FieldProblem, Problem, ProblemCode

from .validation import explain

MEDIA_TYPE = "application/problem+json"
INFERENCE_PATH, INFERENCE_MEDIA_TYPE = "/v2/", "application/json"
"""Where the Open Inference Protocol is spoken, and what its errors are sent as: `kserve` reads none of another type."""

PROBLEMS: dict[ProblemCode, tuple[int, str]] = {
    "bad_image": (400, "The image cannot be used"),
    "bad_request": (400, "The request cannot be read"),
    "unauthenticated": (401, "An API key is needed"),
    "forbidden": (403, "That is not allowed"),
    "not_found": (404, "No such page"),
    "model_not_found": (404, "No such model"),
    "job_not_found": (404, "No such job"),
    "file_not_found": (404, "No such file"),
    "method_not_allowed": (405, "Another method is needed"),
    "idempotency_in_progress": (409, "The first request with this key is still running"),
    "job_state": (409, "The job's state does not allow that"),
    "file_in_use": (409, "The file is in use"),
    "not_calibrated": (409, "The model has no calibration"),
    "model_failed": (409, "The model could not be loaded"),
    "payload_too_large": (413, "The body is too large"),
    "unsupported_media_type": (415, "Another content type is needed"),
    "validation_failed": (422, "A field is not as it should be"),
    "idempotency_mismatch": (422, "The idempotency key belongs to another request"),
    "overloaded": (429, "The service is full"),
    "internal": (500, "The service failed"),
    "endpoint_failed": (502, "The endpoint of the model failed"),
    "no_workers": (503, "No sampler is alive"),
    "draining": (503, "The service is shutting down"),
    "store_unavailable": (503, "Database or disk cannot be used"),
    "model_loading": (503, "The model is still loading"),
    "storage_full": (507, "The disk is full"),
    "deadline_exceeded": (504, "The deadline passed before anything was proven"),
}
"""Status and title of every problem code."""

DEFAULT_CODES: dict[int, ProblemCode] = {status: code for code, (status, _) in reversed(PROBLEMS.items())}
DEFAULT_CODES[400] = "bad_request"
"""The first code of a status, for errors of the framework; but a request that it cannot read is no bad image."""


class ProblemError(HTTPException):
    """An error that the caller is told about.

    It is an `HTTPException` so that FastAPI passes it on unchanged where it reads a body on our behalf.

    Args:
        code: the wire schema's code; status and title follow from it.
        detail: one sentence that names the remedy.
        errors: the fields that are wrong, where the problem lies in fields.
        retry_after_s: when to try again, in seconds; also sent as `Retry-After`, in whole seconds.
        quota: the quota that is used up, where that is the reason.
    """

    def __init__(
        self,
        code: ProblemCode,
        detail: str,
        *,
        errors: Sequence[FieldProblem] = (),
        retry_after_s: float | None = None,
        headers: Mapping[str, str] | None = None,
        quota: str | None = None,
    ) -> None:
        status, self.title = PROBLEMS[code]
        super().__init__(status, detail, dict(headers or {}))
        self.code: ProblemCode = code
        self.errors = tuple(errors)
        self.retry_after_s = retry_after_s
        self.quota = quota
        if quota is not None:
            self.title = "A quota is used up"


def internal() -> ProblemError:
    """What a caller is told when something breaks that should not; the log says what."""
    return ProblemError("internal", "Something broke on our side; try again, and quote the request id if it stays.")


def field_error(pointer: str, detail: str) -> ProblemError:
    """A 422 about one field; `detail` is a sentence that names the remedy."""
    return ProblemError("validation_failed", detail, errors=[FieldProblem(pointer=pointer, detail=detail)])


def to_problem(error: HTTPException, request_id: str | None) -> Problem:
    """The document that describes `error`."""
    if isinstance(error, ProblemError):
        return Problem(
            title=error.title,
            status=error.status_code,
            detail=error.detail,
            instance=request_id,
            code=error.code,
            errors=list(error.errors),
            retry_after_s=error.retry_after_s,
            quota=error.quota,
        )
    code = DEFAULT_CODES.get(error.status_code, "bad_request" if error.status_code < 500 else "internal")
    phrase = HTTPStatus(error.status_code).phrase
    return Problem(title=phrase, status=error.status_code, detail=error.detail, instance=request_id, code=code)


class ProblemResponse(JSONResponse):
    """A problem document as an answer; to clients of the Open Inference Protocol as their error, too."""

    def __init__(self, error: HTTPException, scope: Scope) -> None:
        problem = to_problem(error, request_id_of(scope))
        headers = dict(error.headers or {})
        if problem.retry_after_s is not None:
            headers["Retry-After"] = str(max(1, math.ceil(problem.retry_after_s)))
        content, media_type = problem.model_dump(exclude_none=True), MEDIA_TYPE
        if scope["path"].startswith(INFERENCE_PATH):
            content, media_type = {**content, "error": problem.detail}, INFERENCE_MEDIA_TYPE
        super().__init__(content, problem.status, headers, media_type)

    def render(self, content: Any) -> bytes:
        """Encode as ASCII: a caller's field name may hold half a surrogate pair, which UTF-8 cannot."""
        return json.dumps(content, allow_nan=False).encode("ascii")


def request_id_of(scope: Scope) -> str | None:
    """The id that the request context gave to this request."""
    return scope.get("state", {}).get("request_id")


def add_problem_handlers(app: FastAPI) -> None:
    """Answer every error that a route or the framework raises with a problem document."""

    @app.exception_handler(HTTPException)
    async def on_http_exception(request: Request, error: HTTPException) -> ProblemResponse:
        return ProblemResponse(_reworded(request, error), request.scope)

    @app.exception_handler(RequestValidationError)
    async def on_validation_error(request: Request, error: RequestValidationError) -> ProblemResponse:
        # FastAPI puts `body`, `query` or `path` first, which is no part of a JSON pointer.
        errors = [{**each, "loc": each["loc"][1:]} for each in error.errors()]
        return ProblemResponse(validation_failed(errors, error.body), request.scope)


def validation_failed(errors: Sequence[Any], body: object, fields: Sequence[str] = ()) -> ProblemError:
    """A 422 from pydantic's errors about `body`; `fields` are the names that would have been accepted."""
    problems = explain(errors, body, fields)
    detail = problems[0].detail
    if len(problems) > 1:
        detail = f"{len(problems)} fields are not as they should be (see `errors`); the first: {detail}"
    return ProblemError("validation_failed", detail, errors=problems)


def _reworded(request: Request, error: HTTPException) -> HTTPException:
    """The framework's own errors, as sentences that name the remedy."""
    if isinstance(error, ProblemError):
        return error
    path = request.url.path
    if error.status_code == 404:
        return ProblemError("not_found", f"There is nothing at {path}; /openapi.json lists what is served.")
    if error.status_code == 405:
        allowed = (error.headers or {}).get("Allow", "another method")
        return ProblemError(
            "method_not_allowed", f"{path} does not answer {request.method}; use {allowed}.", headers=error.headers
        )
    return error
