"""Every problem code raises its class, with the request id, the code and the sentence."""

import email.utils
import time
from typing import get_args

import httpx2
import pytest

import spacte_client as sdk
from spacte_client import types

from .conftest import Ask, Recorder, problem, sse

EXPECTED = {
    "bad_image": (400, sdk.BadRequestError),
    "bad_request": (400, sdk.BadRequestError),
    "unauthenticated": (401, sdk.AuthenticationError),
    "forbidden": (403, sdk.PermissionDeniedError),
    "not_found": (404, sdk.NotFoundError),
    "model_not_found": (404, sdk.NotFoundError),
    "job_not_found": (404, sdk.NotFoundError),
    "file_not_found": (404, sdk.NotFoundError),
    "method_not_allowed": (405, sdk.APIStatusError),
    "idempotency_in_progress": (409, sdk.ConflictError),
    "job_state": (409, sdk.ConflictError),
    "file_in_use": (409, sdk.ConflictError),
    "not_calibrated": (409, sdk.ConflictError),
    "model_failed": (409, sdk.ConflictError),
    "payload_too_large": (413, sdk.RequestTooLargeError),
    "unsupported_media_type": (415, sdk.BadRequestError),
    "validation_failed": (422, sdk.UnprocessableEntityError),
    "idempotency_mismatch": (422, sdk.UnprocessableEntityError),
    "overloaded": (429, sdk.OverloadedError),
    "internal": (500, sdk.InternalServerError),
    "endpoint_failed": (502, sdk.InternalServerError),
    "no_workers": (503, sdk.ServiceUnavailableError),
    "draining": (503, sdk.ServiceUnavailableError),
    "model_loading": (503, sdk.ServiceUnavailableError),
    "store_unavailable": (503, sdk.ServiceUnavailableError),
    "storage_full": (507, sdk.InternalServerError),
    "deadline_exceeded": (504, sdk.DeadlineExceededError),
}


def test_every_code_of_the_wire_is_expected_here() -> None:
    assert set(EXPECTED) == set(get_args(types.ProblemCode))


@pytest.mark.parametrize("code", EXPECTED)
def test_a_problem_raises_its_class(ask: Ask, code: str) -> None:
    status, kind = EXPECTED[code]
    with pytest.raises(kind) as caught:
        ask(lambda _: problem(status, code), lambda c: c.info(), max_retries=0)
    error = caught.value
    assert type(error) is kind
    assert (error.status_code, error.code, error.request_id) == (status, code, "req_9")
    assert error.message == "Do something else."
    assert str(error) == f"Do something else. [{status} {code}, req_9]"


def test_field_errors_travel_with_the_exception(ask: Ask) -> None:
    answer = problem(422, "validation_failed", errors=[{"pointer": "/alpha", "detail": "too large"}])
    with pytest.raises(sdk.UnprocessableEntityError) as caught:
        ask(lambda _: answer, lambda c: c.info())
    assert [(e.pointer, e.detail) for e in caught.value.problem.errors] == [("/alpha", "too large")]


def test_a_code_of_a_newer_service_is_kept(ask: Ask) -> None:
    with pytest.raises(sdk.ConflictError) as caught:
        ask(lambda _: problem(409, "quota_used_up"), lambda c: c.info())
    assert caught.value.code == "quota_used_up"


@pytest.mark.parametrize(
    ("status", "kind"), [(404, sdk.NotFoundError), (418, sdk.APIStatusError), (502, sdk.InternalServerError)]
)
def test_an_error_of_another_server_says_so(ask: Ask, status: int, kind: type[sdk.APIStatusError]) -> None:
    answer = httpx2.Response(status, html="<html>nginx</html>")
    with pytest.raises(kind, match="without a problem document") as caught:
        ask(lambda _: answer, lambda c: c.info(), max_retries=0)
    assert caught.value.request_id is None


def test_an_unregistered_status_is_an_error_too(ask: Ask) -> None:
    with pytest.raises(sdk.InternalServerError, match="599"):
        ask(lambda _: httpx2.Response(599, json={"x": 1}), lambda c: c.info(), max_retries=0)


def test_a_redirect_names_where_it_points(ask: Ask) -> None:
    answer = httpx2.Response(307, headers={"location": "https://elsewhere.example/"})
    with pytest.raises(sdk.APIResponseError, match=r"https://elsewhere\.example/"):
        ask(lambda _: answer, lambda c: c.info())


def test_an_answer_of_another_kind_is_refused(ask: Ask) -> None:
    with pytest.raises(sdk.APIResponseError, match="not a Info"):
        ask(lambda _: httpx2.Response(200, html="<html>hello</html>"), lambda c: c.info())


def test_retry_after_is_read_from_header_or_document(ask: Ask) -> None:
    def wait(response: httpx2.Response) -> float | None:
        with pytest.raises(sdk.OverloadedError) as caught:
            ask(lambda _: response, lambda c: c.info(), max_retries=0)
        return caught.value.retry_after

    answer = problem(429, "overloaded", retry_after_s=2.5)
    assert wait(answer) == 2.5
    answer.headers["retry-after"] = "7"
    assert wait(answer) == 7
    answer.headers["retry-after"] = email.utils.formatdate(time.time() + 30, usegmt=True)
    assert 28 < (wait(answer) or 0) <= 30
    answer.headers["retry-after"] = email.utils.formatdate(time.time() - 30, usegmt=True)
    assert wait(answer) == 0
    answer.headers["retry-after"] = "soon"
    assert wait(answer) == 2.5


def test_the_error_of_a_stream_is_raised_like_an_answer() -> None:
    document = {"title": "t", "status": 503, "detail": "Wait.", "code": "no_workers", "instance": "req_5"}
    body = sse(("started", {"request_id": "req_5", "model": "m", "n_max": 10, "looks": 1}), ("error", document))
    recorder = Recorder(httpx2.Response(200, content=body, headers={"content-type": "text/event-stream"}))
    client = sdk.Client(transport=httpx2.MockTransport(recorder))
    with pytest.raises(sdk.ServiceUnavailableError) as caught, client.certify_stream(b"x") as stream:
        stream.result()
    assert caught.value.request_id == "req_5"
