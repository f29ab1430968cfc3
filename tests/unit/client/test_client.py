"""Requests as the API has them, arguments checked before anything is sent, and many images in order."""

import asyncio
import io
import json
import threading
import time
from email.parser import BytesParser
from typing import Any

import httpx2
import numpy as np
import pytest

import spacte_client as sdk
from spacte_client import AsyncClient, Client
from spacte_client.types import FileImage

from .conftest import CERTIFICATE, INFO, MODEL, PREDICTION, Ask, Recorder


def form(request: httpx2.Request) -> dict[str, bytes]:
    """The parts of a multipart body by name."""
    head = b"Content-Type: " + request.headers["content-type"].encode() + b"\r\n\r\n"
    parts = BytesParser().parsebytes(head + request.content).get_payload()
    assert isinstance(parts, list)
    return {str(part.get_param("name", header="content-disposition")): part.get_payload(decode=True) for part in parts}


def test_certify_is_a_form_with_the_options_that_were_given(ask: Ask) -> None:
    recorder = Recorder(CERTIFICATE)
    answer = ask(recorder, lambda c: c.certify(b"PNG", model="digits", n=1000, target_radius=0.5))
    assert (answer.label, answer.radius, answer.abstained) == (7, 0.512345, False)
    assert (recorder.last.method, recorder.last.url.path) == ("POST", "/v1/certify")
    parts = form(recorder.last)
    assert json.loads(parts["params"]) == {"model": "digits", "n": 1000, "target_radius": 0.5}
    assert parts["image"] == b"PNG"


def test_predict_likewise(ask: Ask) -> None:
    recorder = Recorder(PREDICTION)
    answer = ask(recorder, lambda c: c.predict(np.zeros((1, 8, 8), np.uint8), alpha=0.01, resize=True))
    assert (answer.label, answer.p_value) == (3, 1e-9)
    assert recorder.last.url.path == "/v1/predict"
    parts = form(recorder.last)
    assert json.loads(parts["params"]) == {"alpha": 0.01, "resize": True}
    assert np.load(io.BytesIO(parts["image"])).shape == (1, 8, 8)


def test_an_uploaded_image_is_named_in_json(ask: Ask) -> None:
    recorder = Recorder(CERTIFICATE)
    ask(recorder, lambda c: c.certify(FileImage(file_id="file_1"), n=5))
    assert recorder.last.headers["content-type"] == "application/json"
    assert json.loads(recorder.last.content) == {"n": 5, "image": {"type": "file", "file_id": "file_1"}}


def test_models_info_and_health(ask: Ask) -> None:
    recorder = Recorder({"data": [MODEL]})
    assert [model.name for model in ask(recorder, lambda c: c.models.list())] == ["digits"]
    recorder = Recorder(MODEL)
    assert ask(recorder, lambda c: c.models.get("my model/x")).sigmas == [0.25]
    assert recorder.last.url.raw_path == b"/v1/models/my%20model%2Fx"
    ask(recorder, lambda c: c.models.load("digits"))
    assert (recorder.last.method, recorder.last.url.path) == ("POST", "/v1/models/digits/load")
    ask(recorder, lambda c: c.models.unload("digits"))
    assert recorder.last.url.path == "/v1/models/digits/unload"
    assert ask(Recorder(INFO), lambda c: c.info()).limits["n_max"] == 100000
    recorder = Recorder({"status": "ok", "checks": {"samplers": "ok"}})
    assert ask(recorder, lambda c: c.health()).status == "ok"
    assert recorder.last.url.path == "/readyz"


def test_not_ready_is_an_answer_and_not_an_error(ask: Ask, slept: list[float]) -> None:
    document = {"status": "unavailable", "checks": {"samplers": "none is alive"}}
    recorder = Recorder(httpx2.Response(503, json=document))
    health = ask(recorder, lambda c: c.health())
    assert (health.status, health.checks) == ("unavailable", {"samplers": "none is alive"})
    assert len(recorder.requests) == 1


def test_key_address_and_name_travel_with_every_request(ask: Ask, monkeypatch: pytest.MonkeyPatch) -> None:
    recorder = Recorder(INFO)
    ask(recorder, lambda c: c.info(), base_url="https://gateway.example/spacte/", api_key=" key\n")
    assert str(recorder.last.url) == "https://gateway.example/spacte/v1/info"
    assert recorder.last.headers["authorization"] == "Bearer key"
    assert recorder.last.headers["user-agent"].startswith("spacte-client/")
    ask(recorder, lambda c: c.info())
    assert str(recorder.last.url) == "http://127.0.0.1:8000/v1/info"
    assert "authorization" not in recorder.last.headers
    monkeypatch.setenv("SPACTE_BASE_URL", "http://from.environment:1")
    monkeypatch.setenv("SPACTE_API_KEY", "from-environment")
    ask(recorder, lambda c: c.info())
    assert recorder.last.url.host == "from.environment"
    assert recorder.last.headers["authorization"] == "Bearer from-environment"


def test_the_timeout_of_a_call_replaces_the_client_s(ask: Ask) -> None:
    recorder = Recorder(CERTIFICATE)
    ask(recorder, lambda c: c.certify(b"x"))
    assert recorder.last.extensions["timeout"]["read"] == 600
    assert recorder.last.extensions["timeout"]["connect"] == 5
    ask(recorder, lambda c: c.certify(b"x", timeout=3), timeout=60)
    assert set(recorder.last.extensions["timeout"].values()) == {3}
    ask(recorder, lambda c: c.certify(b"x", timeout=httpx2.Timeout(None)))
    assert set(recorder.last.extensions["timeout"].values()) == {None}


def test_the_key_is_not_in_any_repr() -> None:
    for kind in (Client, AsyncClient):
        client = kind(base_url="http://x", api_key="secret")
        assert repr(client) == f"{kind.__name__}(base_url='http://x')"
        assert "secret" not in repr(client._connection.settings)


WRONG_OPTIONS: list[tuple[dict[str, Any], str]] = [
    ({"nn": 5}, r"`nn` is not an option of certify; did you mean `n`\?"),
    ({"zzzzzz": 5}, "choose from"),
    ({"n": 0}, "`n` should be greater than or equal to 1, and is 0"),
    ({"n": 10**9}, "`n` should be less"),
    ({"alpha": 1.5}, "`alpha` should be less than 1"),
    ({"noise": "gird"}, "`noise` should be 'grid' or 'float'"),
    ({"seed": "xyz"}, "`seed`"),
    ({"target_radius": -1}, "`target_radius`"),
    ({"timeout": 0}, "`timeout`"),
    ({"timeout": float("nan")}, "`timeout`"),
]


@pytest.mark.parametrize(("options", "sentence"), WRONG_OPTIONS)
def test_a_wrong_option_is_refused_before_anything_is_sent(ask: Ask, options: dict[str, Any], sentence: str) -> None:
    recorder = Recorder(CERTIFICATE)
    with pytest.raises(sdk.InvalidArgumentError, match=sentence):
        ask(recorder, lambda c: c.certify(b"x", **options))
    assert recorder.requests == []


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ({"base_url": "127.0.0.1:8000"}, "http"),
        ({"base_url": "ftp://x"}, "http"),
        ({"base_url": "http://x?model=digits"}, "http"),
        ({"base_url": "http://\x00"}, "malformed"),
        ({"api_key": "schlüssel"}, "copy it again"),
        ({"max_retries": -1}, "max_retries"),
        ({"timeout": -1}, "timeout"),
    ],
)
def test_a_client_is_not_made_from_wrong_arguments(arguments: dict[str, Any], sentence: str) -> None:
    for kind in (Client, AsyncClient):
        with pytest.raises(sdk.InvalidArgumentError, match=sentence):
            kind(**arguments)


@pytest.mark.parametrize("name", ["", ".", ".."])
def test_a_name_that_would_be_another_route_is_refused(ask: Ask, name: str) -> None:
    with pytest.raises(sdk.InvalidArgumentError, match="model name"):
        ask(Recorder(MODEL), lambda c: c.models.get(name))


def by_image(request: httpx2.Request) -> httpx2.Response:
    """Answers with the image's number as label; the first image is the slowest."""
    number = int(form(request)["image"])
    time.sleep(0.05 if number == 0 else 0)
    return httpx2.Response(200, json=CERTIFICATE | {"label": number})


def test_many_images_are_answered_in_order(ask: Ask) -> None:
    images = [str(number).encode() for number in range(20)]
    answers = ask(by_image, lambda c: c.certify_many(images, concurrency=4, n=10))
    assert [answer.label for answer in answers] == list(range(20))
    assert ask(by_image, lambda c: c.certify_many([])) == []


def test_many_images_keep_to_the_concurrency_and_take_images_as_needed() -> None:
    running, most, begun, lock = 0, 0, 0, threading.Lock()
    together = threading.Barrier(3)
    taken: list[int] = []

    def handler(request: httpx2.Request) -> httpx2.Response:
        nonlocal running, most, begun
        with lock:
            running, most, begun = running + 1, max(most, running + 1), begun + 1
            first = begun <= 3
        if first:
            together.wait(60)
        time.sleep(0.02)
        with lock:
            running -= 1
        return httpx2.Response(200, json=CERTIFICATE)

    def endless() -> Any:
        while True:
            taken.append(1)
            yield b"x"

    with Client(transport=httpx2.MockTransport(handler)) as client:
        answers = client.certify_many(endless(), concurrency=3)
        for _ in range(5):
            next(answers)
        answers.close()  # type: ignore[attr-defined]
    assert most == 3
    assert len(taken) <= 8


async def test_many_images_keep_to_the_concurrency_on_asyncio() -> None:
    running, most = 0, 0

    async def handler(request: httpx2.Request) -> httpx2.Response:
        nonlocal running, most
        running, most = running + 1, max(most, running + 1)
        try:
            await asyncio.sleep(0.02)
        finally:
            running -= 1
        return httpx2.Response(200, json=CERTIFICATE)

    async with AsyncClient(transport=httpx2.MockTransport(handler)) as client:
        answers = client.certify_many([b"x"] * 50, concurrency=3)
        for _ in range(5):
            await anext(answers)
        await answers.aclose()  # type: ignore[attr-defined]
        assert most == 3
        assert running == 0


def test_the_first_failure_of_many_is_raised_in_its_turn() -> None:
    def handler(request: httpx2.Request) -> httpx2.Response:
        number = int(form(request)["image"])
        return httpx2.Response(400 if number == 2 else 200, json=CERTIFICATE | {"label": number})

    with Client(transport=httpx2.MockTransport(handler)) as client:
        answers = client.certify_many([str(n).encode() for n in range(9)], concurrency=4)
        assert [next(answers).label, next(answers).label] == [0, 1]
        with pytest.raises(sdk.BadRequestError):
            next(answers)


def test_many_images_with_wrong_arguments_send_nothing(ask: Ask) -> None:
    recorder = Recorder(CERTIFICATE)
    for options, sentence in (({"concurrency": 0}, "concurrency"), ({"nn": 1}, "certify_many")):
        with pytest.raises(sdk.InvalidArgumentError, match=sentence):
            ask(recorder, lambda c, options=options: c.certify_many([b"x"], **options))
    assert recorder.requests == []


def test_one_blocking_client_serves_many_threads() -> None:
    with Client(transport=httpx2.MockTransport(by_image)) as client:
        found: dict[int, int] = {}

        def work(number: int) -> None:
            found[number] = client.certify(str(number).encode()).label

        threads = [threading.Thread(target=work, args=(number,)) for number in range(16)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert found == {number: number for number in range(16)}
