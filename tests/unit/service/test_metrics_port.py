"""Promise: with `--metrics-port` the metrics are on that port alone, and end with the gateway."""

import asyncio

import httpx2
import pytest
from fastapi import FastAPI

from spacte_service import Settings, create_app
from spacte_service.metrics_server import MetricsServer
from spacte_service.server import bind


async def test_metrics_move_to_their_port(backend: object) -> None:
    app: FastAPI = create_app(Settings(metrics_port=9090), backend)  # pyright: ignore[reportArgumentType]
    metrics = app.state.gateway.metrics
    transport = httpx2.ASGITransport(app=app)
    async with httpx2.AsyncClient(transport=transport, base_url="http://testserver") as http:
        assert (await http.get("/livez")).status_code == 200
        assert (await http.get("/metrics")).status_code == 404
    listener = bind("127.0.0.1", 0)
    address = f"http://127.0.0.1:{listener.getsockname()[1]}"
    server = MetricsServer(metrics, listener)
    await server.start()
    async with httpx2.AsyncClient(base_url=address) as http:
        answer = await http.get("/metrics")
        assert answer.headers["content-type"].startswith("text/plain")
        assert 'spacte_http_requests_total{method="GET",route="/livez",status="200"} 1.0' in answer.text
        assert (await http.get("/v1/info")).status_code == 404
    await server.stop()
    async with httpx2.AsyncClient(base_url=address) as http:
        with pytest.raises(httpx2.ConnectError):
            await http.get("/metrics")


async def test_an_address_that_is_taken_is_named() -> None:
    listener = bind("127.0.0.1", 0)
    listener.listen()
    port = listener.getsockname()[1]
    try:
        with pytest.raises(OSError, match="in use") as caught:
            await asyncio.to_thread(bind, "127.0.0.1", port)
    finally:
        listener.close()
    assert caught.value.filename == f"127.0.0.1 port {port}"
