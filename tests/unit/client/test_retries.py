"""Attempts: which failures are tried again, after how long, and that every attempt is the same request."""

import logging
from typing import Any

import httpx2
import pytest

import spacte_client as sdk
from spacte_client._retries import Backoff

from .conftest import CERTIFICATE, INFO, Ask, Recorder, problem

OVERLOADED = problem(429, "overloaded")


@pytest.mark.parametrize(
    "failure",
    [
        OVERLOADED,
        problem(500, "internal"),
        problem(503, "no_workers"),
        problem(507, "storage_full"),
        problem(409, "idempotency_in_progress"),
        httpx2.Response(408),
        httpx2.Response(502),
        httpx2.Response(504),
        httpx2.ConnectError("refused"),
        httpx2.ReadTimeout("slow"),
        httpx2.RemoteProtocolError("cut"),
    ],
    ids=str,
)
def test_what_may_pass_is_tried_again_twice(ask: Ask, slept: list[float], failure: httpx2.Response | Exception) -> None:
    recorder = Recorder(failure, failure, INFO)
    assert ask(recorder, lambda c: c.info()).samplers == 2
    assert len(recorder.requests) == 3
    assert 0.375 <= slept[0] <= 0.5
    assert 0.75 <= slept[1] <= 1.0


@pytest.mark.parametrize(
    "failure",
    [
        problem(400, "bad_image"),
        problem(401, "unauthenticated"),
        problem(404, "model_not_found"),
        problem(409, "job_state"),
        problem(413, "payload_too_large"),
        problem(422, "validation_failed"),
        problem(504, "deadline_exceeded"),
        httpx2.Response(200, text="not JSON"),
    ],
    ids=str,
)
def test_what_cannot_pass_is_not_tried_again(ask: Ask, slept: list[float], failure: httpx2.Response) -> None:
    recorder = Recorder(failure)
    with pytest.raises(sdk.APIError):
        ask(recorder, lambda c: c.info())
    assert len(recorder.requests) == 1
    assert slept == []


DRAWING = pytest.mark.parametrize(
    "draw", [lambda c: c.certify(b"image", target_radius=0.5), lambda c: c.predict(b"image")]
)


@DRAWING
@pytest.mark.parametrize("failure", [httpx2.ReadTimeout("slow"), httpx2.Response(504)], ids=str)
def test_noises_that_took_too_long_are_not_drawn_again(
    ask: Ask, slept: list[float], draw: Any, failure: httpx2.Response | Exception
) -> None:
    """Each attempt draws under another seed: to draw until it is decided in time is to try alpha several times."""
    recorder = Recorder(failure)
    with pytest.raises(sdk.APIError):
        ask(recorder, draw)
    assert len(recorder.requests) == 1
    assert slept == []


@DRAWING
@pytest.mark.parametrize(
    "failure",
    [
        httpx2.ConnectError("refused"),
        httpx2.ConnectTimeout("slow"),
        httpx2.WriteTimeout("slow"),
        problem(503, "no_workers"),
    ],
    ids=str,
)
def test_noises_that_were_never_drawn_are_asked_for_again(
    ask: Ask, slept: list[float], draw: Any, failure: httpx2.Response | Exception
) -> None:
    recorder = Recorder(failure)
    with pytest.raises(sdk.APIError):
        ask(recorder, draw)
    assert len(recorder.requests) == 3


@pytest.mark.parametrize(
    ("draw", "remedy"),
    [
        (lambda c: c.certify(b"image"), "or a `deadline_ms` to get"),
        (lambda c: c.certify(b"image", deadline_ms=5), "more time beyond its `deadline_ms`"),
        (lambda c: c.predict(b"image"), "or a smaller `n`"),
    ],
)
def test_an_answer_that_is_late_has_a_remedy_that_is_open(ask: Ask, draw: Any, remedy: str) -> None:
    with pytest.raises(sdk.APITimeoutError, match=remedy):
        ask(Recorder(httpx2.ReadTimeout("slow")), draw)


@pytest.mark.parametrize(
    ("client", "call", "read"),
    [
        ({}, {}, 600),
        ({}, {"deadline_ms": 1_000}, 600),
        ({}, {"deadline_ms": 900_000}, 960),
        ({"timeout": 600}, {"deadline_ms": 900_000}, 600),
        ({}, {"deadline_ms": 900_000, "timeout": 7}, 7),
    ],
)
def test_an_answer_is_awaited_beyond_its_deadline_unless_the_caller_says_otherwise(
    ask: Ask, client: dict[str, Any], call: dict[str, Any], read: float
) -> None:
    recorder = Recorder(CERTIFICATE)
    ask(recorder, lambda c: c.certify(b"image", **call), **client)
    assert recorder.last.extensions["timeout"]["read"] == read
    assert recorder.last.extensions["timeout"]["connect"] == 5


def test_the_last_failure_is_raised(ask: Ask, slept: list[float]) -> None:
    recorder = Recorder(OVERLOADED, problem(503, "draining"))
    with pytest.raises(sdk.ServiceUnavailableError):
        ask(recorder, lambda c: c.info())
    assert len(recorder.requests) == 3
    assert len(slept) == 2


def test_retries_can_be_turned_off(ask: Ask, slept: list[float]) -> None:
    recorder = Recorder(OVERLOADED)
    with pytest.raises(sdk.OverloadedError):
        ask(recorder, lambda c: c.info(), max_retries=0)
    assert len(recorder.requests) == 1


def test_pauses_grow_to_eight_seconds(ask: Ask, slept: list[float]) -> None:
    with pytest.raises(sdk.APIConnectionError):
        ask(Recorder(httpx2.ConnectError("refused")), lambda c: c.info(), max_retries=7)
    assert len(slept) == 7
    for pause, longest in zip(slept, [0.5, 1, 2, 4, 8, 8, 8], strict=True):
        assert 0.75 * longest <= pause <= longest
    assert len(set(slept)) == 7


def test_a_named_time_is_waited_for_and_never_cut_short(ask: Ask, slept: list[float]) -> None:
    named = problem(429, "overloaded")
    named.headers["retry-after"] = "17"
    ask(Recorder(named, INFO), lambda c: c.info())
    assert 17 <= slept[0] <= 17 * 1.25


def test_too_long_a_time_is_raised_instead_of_waited_for(ask: Ask, slept: list[float]) -> None:
    named = problem(503, "draining")
    named.headers["retry-after"] = "3600"
    with pytest.raises(sdk.ServiceUnavailableError) as caught:
        ask(Recorder(named, INFO), lambda c: c.info())
    assert caught.value.retry_after == 3600
    assert slept == []


def test_all_attempts_of_one_call_share_bytes_and_key_and_two_calls_do_not(ask: Ask, slept: list[float]) -> None:
    recorder = Recorder(OVERLOADED, OVERLOADED, CERTIFICATE)
    ask(recorder, lambda c: c.certify(b"image", n=10))
    ask(recorder, lambda c: c.certify(b"image", n=10))
    keys = [request.headers["idempotency-key"] for request in recorder.requests]
    assert len(keys) == 4
    assert len(set(keys[:3])) == 1
    assert keys[3] != keys[0]
    parts = {request.content.split(b"\r\n", 1)[1].rsplit(b"--", 2)[0] for request in recorder.requests[:3]}
    assert len({len(part) for part in parts}) == 1
    assert all(b'{"n": 10}' in part and b"image" in part for part in parts)


def test_a_key_of_the_caller_is_used(ask: Ask) -> None:
    recorder = Recorder(CERTIFICATE)
    ask(recorder, lambda c: c.certify(b"image", idempotency_key="mine"))
    assert recorder.last.headers["idempotency-key"] == "mine"


def test_a_retry_is_logged(ask: Ask, slept: list[float], caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO, "spacte_client"):
        ask(Recorder(OVERLOADED, INFO), lambda c: c.info(), api_key="secret-key")
    assert "GET /v1/info failed" in caplog.text
    assert "secret-key" not in caplog.text


@pytest.mark.parametrize(
    ("failure", "kind", "remedy"),
    [
        (httpx2.ConnectError("refused"), sdk.APIConnectionError, "spacte serve"),
        (httpx2.ConnectError("[SSL: CERTIFICATE_VERIFY_FAILED] x"), sdk.APIConnectionError, "SSL_CERT_FILE"),
        (httpx2.ConnectError("[SSL: WRONG_VERSION_NUMBER] x"), sdk.APIConnectionError, "an http address"),
        (httpx2.ConnectTimeout("slow"), sdk.APITimeoutError, "check the address"),
        (httpx2.ReadTimeout("slow"), sdk.APITimeoutError, "pass a longer `timeout`."),
        (httpx2.ReadError(""), sdk.APIConnectionError, "ReadError"),
    ],
    ids=str,
)
def test_a_failed_connection_names_the_address_and_the_remedy(
    ask: Ask, failure: Exception, kind: type[sdk.APIError], remedy: str
) -> None:
    with pytest.raises(kind, match=remedy) as caught:
        ask(Recorder(failure), lambda c: c.info(), base_url="http://gateway.example", max_retries=0)
    assert type(caught.value) is kind
    assert "http://gateway.example" in caught.value.message


def test_an_invalid_argument_is_never_retried() -> None:
    backoff = Backoff(5)
    assert backoff.delay_after(sdk.APIResponseError("no")) is None
