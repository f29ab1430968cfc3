"""Promise: a key has no more streams than its quota, and none two seconds after it was revoked or renewed."""

import asyncio

import httpx2
import pytest

from spacte_service import Settings, create_app
from spacte_service.callers import holder_of
from spacte_service.keys import KeyRing, make_key, write_keys
from spacte_service.metrics import Metrics
from spacte_service.middleware import RequestContext
from spacte_service.open_streams import OpenStreams
from spacte_service.quota_settings import Quotas

from .conftest import make_png


@pytest.fixture
def alice(tmp_path):
    """A key with one stream, and its file."""
    path = tmp_path / "keys.json"
    secret, key = make_key("alice", "user", quotas=Quotas(streams=1))
    write_keys(path, [key])
    return secret, key, path


async def test_a_proof_ends_with_its_key_and_says_why(alice, backend, until):
    secret, key, path = alice
    transport = httpx2.ASGITransport(app=create_app(Settings(keys_file=path), backend))
    headers = {"Authorization": f"Bearer {secret}"}
    async with httpx2.AsyncClient(transport=transport, base_url="http://testserver", headers=headers) as http:

        def certify():
            return http.post("/v1/certify/stream", files={"image": make_png()})

        backend.gate.clear()
        stream = asyncio.create_task(certify())
        await until(lambda: backend.running)
        refused = await certify()
        assert (refused.status_code, refused.json()["quota"], "retry-after" in refused.headers) == (
            429,
            "streams",
            False,
        )
        write_keys(path, [key.model_copy(update={"sha256": "0" * 64})])  # renewed
        async with asyncio.timeout(2):
            answer = await stream
    assert "event: error" in answer.text
    assert '"unauthenticated"' in answer.text
    assert backend.cancelled == 1


@pytest.mark.slow
async def test_a_stream_that_does_not_end_by_itself_is_cut(alice):
    """As one whose client reads nothing."""
    _, key, path = alice
    streams, sent = OpenStreams(KeyRing([], path)), []

    async def app(scope, receive, send):
        with streams.open(holder_of(key, Quotas())) as scope["state"]["stream"]:
            await send({"type": "http.response.start", "status": 200, "headers": []})
            await asyncio.Event().wait()

    async def send(message):
        sent.append(message["type"])

    scope = {"type": "http", "method": "GET", "scheme": "http", "path": "/", "headers": []}
    answering = asyncio.create_task(RequestContext(app, Metrics())(scope, None, send))
    await asyncio.sleep(0.1)
    write_keys(path, [])
    async with asyncio.timeout(2):
        await answering
    assert sent == ["http.response.start"]
