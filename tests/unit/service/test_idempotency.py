"""Promise: a request sent again with its Idempotency-Key is worked on once, and gets the stored answer."""

import asyncio
import base64
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any

import httpx2
import pytest
from pydantic import BaseModel
from sqlalchemy.exc import OperationalError

from spacte_service import Settings, create_app, idempotency
from spacte_service.idempotency import IdempotentAnswers
from spacte_service.problems import ProblemError


def body(image: bytes, **options: Any) -> dict[str, Any]:
    return {"image": {"type": "base64", "data": base64.b64encode(image).decode()}} | options


def key(text: str) -> dict[str, str]:
    return {"Idempotency-Key": text}


async def test_the_answer_is_replayed(http: httpx2.AsyncClient, backend: Any, digit: bytes) -> None:
    first = await http.post("/v1/certify", json=body(digit), headers=key("k"))
    again = await http.post("/v1/certify", json=body(digit), headers=key("k"))
    assert first.json() == again.json()
    assert "idempotency-replayed" not in first.headers
    assert again.headers["idempotency-replayed"] == "true"
    assert len(backend.begun) == 1
    by_form = await http.post("/v1/certify", files={"image": ("d.png", digit)}, headers=key("k"))
    assert by_form.json() == first.json()


async def test_identical_requests_without_a_key_are_not_merged(
    http: httpx2.AsyncClient, backend: Any, digit: bytes
) -> None:
    answers = await asyncio.gather(*(http.post("/v1/certify", json=body(digit)) for _ in range(3)))
    assert len({answer.json()["id"] for answer in answers}) == 3
    assert len(backend.begun) == 3


async def test_another_request_with_the_same_key_is_a_mismatch(
    http: httpx2.AsyncClient, digit: bytes, png: Any
) -> None:
    await http.post("/v1/certify", json=body(digit), headers=key("k"))
    for other in (body(digit, n=5), body(png(9))):
        answer = await http.post("/v1/certify", json=other, headers=key("k"))
        assert (answer.status_code, answer.json()["code"]) == (422, "idempotency_mismatch")


async def test_while_the_first_runs_the_second_is_told_to_wait(
    http: httpx2.AsyncClient, backend: Any, digit: bytes, until: Any
) -> None:
    backend.gate.clear()
    first = asyncio.create_task(http.post("/v1/certify", json=body(digit), headers=key("k")))
    await until(lambda: backend.running == 1)
    second = await http.post("/v1/certify", json=body(digit), headers=key("k"))
    assert (second.status_code, second.json()["code"]) == (409, "idempotency_in_progress")
    assert second.headers["retry-after"] == "1"
    backend.gate.set()
    assert (await first).status_code == 200


async def test_a_failed_request_may_be_sent_again(http: httpx2.AsyncClient, backend: Any, digit: bytes) -> None:
    backend.samplers = 0
    assert (await http.post("/v1/certify", json=body(digit), headers=key("k"))).status_code == 503
    backend.samplers = 1
    assert (await http.post("/v1/certify", json=body(digit), headers=key("k"))).status_code == 200


@pytest.mark.parametrize("text", ["", "x" * 256, "two words"])
async def test_a_key_that_is_none_is_refused(http: httpx2.AsyncClient, digit: bytes, text: str) -> None:
    answer = await http.post("/v1/certify", json=body(digit), headers=key(text))
    assert (answer.status_code, answer.json()["code"]) == (400, "bad_request")


class Said(BaseModel):
    text: str


async def _answer(text: str) -> Said:
    return Said(text=text)


async def no_store() -> None:
    return None


def kept(**options: Any) -> IdempotentAnswers[Said]:
    return IdempotentAnswers(Said, no_store, **options)


async def test_callers_do_not_see_each_others_answers() -> None:
    answers = kept()
    assert await answers.once("a", "k", "request", lambda: _answer("for a")) == (Said(text="for a"), False)
    assert await answers.once("b", "k", "request", lambda: _answer("for b")) == (Said(text="for b"), False)
    assert await answers.once("a", "k", "request", lambda: _answer("new")) == (Said(text="for a"), True)


async def test_answers_are_forgotten_by_age_and_by_number(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 0.0
    monkeypatch.setattr(idempotency, "monotonic", lambda: now)
    answers = kept(keep_s=10, most=3)
    for name in "abcd":
        await answers.once("x", name, "request", lambda: _answer("old"))
    assert await answers.once("x", "a", "request", lambda: _answer("new")) == (Said(text="new"), False)
    assert await answers.once("x", "d", "request", lambda: _answer("new")) == (Said(text="old"), True)
    now = 11.0
    assert await answers.once("x", "d", "request", lambda: _answer("new")) == (Said(text="new"), False)


async def test_a_cancelled_request_leaves_its_key_free() -> None:
    answers = kept()

    async def never() -> Said:
        await asyncio.Event().wait()
        return Said(text="")

    task = asyncio.create_task(answers.once("x", "k", "request", never))
    await asyncio.sleep(0)
    with pytest.raises(ProblemError):
        await answers.once("x", "k", "request", never)
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    assert await answers.once("x", "k", "request", lambda: _answer("new")) == (Said(text="new"), False)


@pytest.fixture
def restarted(tmp_path: Path, backend: Any) -> Callable[[], AbstractAsyncContextManager[httpx2.AsyncClient]]:
    """Gateways one after the other over one data folder that has a store."""

    @asynccontextmanager
    async def start() -> AsyncIterator[httpx2.AsyncClient]:
        app = create_app(Settings(data_dir=tmp_path, in_process=True), backend)
        async with app.router.lifespan_context(app):
            transport = httpx2.ASGITransport(app=app)
            async with httpx2.AsyncClient(transport=transport, base_url="http://testserver") as http:
                assert (await http.get("/v1/jobs")).status_code == 200  # makes the store
                yield http

    return start


async def test_answers_outlive_the_gateway_where_there_is_a_store(
    restarted: Any, backend: Any, digit: bytes, png: Any
) -> None:
    async with restarted() as http:
        first = await http.post("/v1/certify", json=body(digit), headers=key("k"))
        assert first.status_code == 200
    async with restarted() as http:
        again = await http.post("/v1/certify", json=body(digit), headers=key("k"))
        assert again.headers["idempotency-replayed"] == "true"
        assert again.json() == first.json()
        assert len(backend.begun) == 1
    async with restarted() as http:
        other = await http.post("/v1/certify", json=body(png(9)), headers=key("k"))
        assert (other.status_code, other.json()["code"]) == (422, "idempotency_mismatch")


async def test_kept_answers_end_after_a_day(
    restarted: Any, backend: Any, digit: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with restarted() as http:
        await http.post("/v1/certify", json=body(digit), headers=key("k"))
    monkeypatch.setattr("spacte_service.store.idempotency.KEPT", timedelta(0))
    async with restarted() as http:
        again = await http.post("/v1/certify", json=body(digit), headers=key("k"))
    assert "idempotency-replayed" not in again.headers
    assert len(backend.begun) == 2


async def test_of_two_gateways_with_one_key_the_first_answer_stays(restarted: Any, digit: bytes) -> None:
    async with restarted() as one, restarted() as two:
        first = await one.post("/v1/certify", json=body(digit), headers=key("k"))
        await one._transport.app.state.gateway.certificates.written()
        store = (await two._transport.app.state.gateway.jobs.opened()).store
        fingerprint = next(iter(one._transport.app.state.gateway.certificates._entries.values())).fingerprint
        store.idempotency.keep("address:127.0.0.1", "k", fingerprint, {"another": "answer"})
        second = await two.post("/v1/certify", json=body(digit), headers=key("k"))
        assert second.json() == first.json()


async def test_without_its_store_the_gateway_goes_on_certifying(
    restarted: Any, digit: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    def down(*_: object) -> None:
        raise OperationalError("statement", {}, Exception("the disk is gone"))

    monkeypatch.setattr("spacte_service.store.idempotency.Idempotency.find", down)
    monkeypatch.setattr("spacte_service.store.idempotency.Idempotency.keep", down)
    async with restarted() as http:
        first = await http.post("/v1/certify", json=body(digit), headers=key("k"))
        again = await http.post("/v1/certify", json=body(digit), headers=key("k"))
    assert first.status_code == 200
    assert again.json() == first.json()
