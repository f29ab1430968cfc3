"""Promise: HEAD answers wherever GET does, with its status and headers and without a body."""

import asyncio
from typing import Any

import httpx2
import pytest
from fastapi import FastAPI
from starlette.types import Message

from spacte_service.head_requests import HeadRequests
from spacte_service.web.pages import PAGES


async def test_head_wherever_get_is(app: FastAPI, http: httpx2.AsyncClient, backend: Any) -> None:
    paths = [path for path, verbs in app.openapi()["paths"].items() if "get" in verbs]
    paths = [path.replace("{name}", "digits").replace("{", "").replace("}", "") for path in paths]
    assert {"/livez", "/readyz", "/metrics"} <= set(paths)
    for path in [*paths, *PAGES, "/openapi.json", "/web/style.css", "/nothing/here"]:
        for backend.samplers in (0, 1):
            got, head = await http.get(path), await http.head(path)
            assert head.status_code == got.status_code, path
            assert head.content == b"", path
            varying = ("x-request-id", "content-length")  # an answer may name its request, or count requests
            assert {k: v for k, v in head.headers.items() if k not in varying} == {
                k: v for k, v in got.headers.items() if k not in varying
            }, path
            assert ("content-length" in head.headers) == ("content-length" in got.headers), path


async def test_head_is_counted_as_head_at_its_route(app: FastAPI, http: httpx2.AsyncClient) -> None:
    await http.head("/readyz")
    text = (await http.get("/metrics")).text
    assert 'spacte_http_requests_total{method="HEAD",route="/readyz",status="200"} 1.0' in text


async def test_a_stream_without_end_is_ended_by_head() -> None:
    ended = asyncio.Event()

    async def stream(scope: Any, receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})
        try:
            while True:
                await send({"type": "http.response.body", "body": b"x", "more_body": True})
                await asyncio.sleep(0.01)
        finally:
            ended.set()

    sent: list[Message] = []

    async def send(message: Any) -> None:
        sent.append(message)

    async def receive() -> Any:
        await asyncio.Event().wait()

    await asyncio.wait_for(HeadRequests(stream)({"type": "http", "method": "HEAD"}, receive, send), 10)
    assert ended.is_set()
    assert [message.get("body") for message in sent] == [None, b""]


async def test_an_error_of_the_route_is_raised_on() -> None:
    async def fails(scope: Any, receive: Any, send: Any) -> None:
        raise ValueError("here")

    with pytest.raises(ValueError, match="here"):
        await HeadRequests(fails)({"type": "http", "method": "HEAD"}, None, None)  # pyright: ignore[reportArgumentType]
