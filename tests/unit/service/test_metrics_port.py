"""Promise: with `--metrics-port` the metrics are on that port alone, with nothing else, and end with the gateway."""

import select
import socket
from collections.abc import Callable
from contextlib import ExitStack

import httpx2
import pytest
from fastapi import FastAPI

from spacte_service import Settings, create_app
from spacte_service.listening import bind
from spacte_service.metrics import Metrics
from spacte_service.metrics_port import METRICS_CONNECTIONS, metrics_port


async def test_metrics_move_to_their_port(backend: object) -> None:
    app: FastAPI = create_app(Settings(metrics_port=9090), backend)  # pyright: ignore[reportArgumentType]
    metrics = app.state.gateway.metrics
    transport = httpx2.ASGITransport(app=app)
    async with httpx2.AsyncClient(transport=transport, base_url="http://testserver") as http:
        assert (await http.get("/livez")).status_code == 200
        assert (await http.get("/metrics")).status_code == 404
    with metrics_port(metrics, Settings(), "127.0.0.1", 0) as port:
        async with httpx2.AsyncClient(base_url=f"http://127.0.0.1:{port}") as http:
            answer = await http.get("/metrics")
            assert answer.headers["content-type"].startswith("text/plain")
            assert 'spacte_http_requests_total{method="GET",route="/livez",status="200"} 1.0' in answer.text
            again = (
                await http.get("/v1/info")
            ).text  # every path shows the metrics, of which those of the process move
            assert [line for line in again.splitlines() if "process_" not in line] == [
                line for line in answer.text.splitlines() if "process_" not in line
            ]
            assert (await http.post("/v1/certify")).status_code == 405
    async with httpx2.AsyncClient(base_url=f"http://127.0.0.1:{port}") as http:
        with pytest.raises(httpx2.ConnectError):
            await http.get("/metrics")


@pytest.mark.parametrize(
    "listen",
    [bind, lambda host, port: metrics_port(Metrics(), Settings(), host, port).__enter__()],
    ids=["api", "metrics"],
)
def test_an_address_that_is_taken_is_named(listen: Callable[[str, int], object]) -> None:
    with bind("127.0.0.1", 0) as listener:
        listener.listen()
        port = listener.getsockname()[1]
        with pytest.raises(OSError, match="in use") as caught:
            listen("127.0.0.1", port)
    assert caught.value.filename == f"127.0.0.1 port {port}"


def test_the_metrics_of_an_ipv6_address() -> None:
    with metrics_port(Metrics(), Settings(), "::1", 0) as port:
        assert httpx2.get(f"http://[::1]:{port}/metrics").status_code == 200


def test_silent_connections_do_not_keep_a_scraper_out() -> None:
    with metrics_port(Metrics(), Settings(), "127.0.0.1", 0) as port, ExitStack() as held:
        silent = [held.enter_context(socket.create_connection(("127.0.0.1", port))) for _ in range(40)]
        assert httpx2.get(f"http://127.0.0.1:{port}/metrics").status_code == 200
        ended = select.select(silent, [], [], 0)[0]
    assert len(silent) - len(ended) < METRICS_CONNECTIONS
