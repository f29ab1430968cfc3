"""Promise: the port is open before the workers are up, and the server says where it serves and ends in order."""

import asyncio
import signal
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from typing import Any

import httpx2
import pytest
import uvicorn

from spacte_service import Settings, create_app
from spacte_service.listening import bind
from spacte_service.metrics_port import metrics_port
from spacte_service.server import Server
from spacte_service.store import StoreError
from spacte_workers.errors import ClusterError


@pytest.fixture
def make_server(backend: Any) -> Iterator[Callable[..., tuple[Server, socket.socket, str, str]]]:
    """Makes a server with a port of its own for the metrics; gives it, its listener and both addresses."""
    with ExitStack() as stack:

        def make() -> tuple[Server, socket.socket, str, str]:
            app = create_app(Settings(metrics_port=1), backend)
            gateway = app.state.gateway
            listener = stack.enter_context(bind("127.0.0.1", 0))
            port = stack.enter_context(metrics_port(gateway.metrics, gateway.settings, "127.0.0.1", 0))
            url = f"http://127.0.0.1:{listener.getsockname()[1]}"
            config = uvicorn.Config(app, lifespan="off", log_config=None)
            return (
                Server(config, lambda: gateway, app.state.gateway.settings, url),
                listener,
                url,
                f"http://127.0.0.1:{port}",
            )

        yield make


def test_it_serves_until_it_is_told_to_stop(make_server: Any, capsys: pytest.CaptureFixture[str]) -> None:
    """Not on the main thread, where it leaves the signals alone."""
    server, listener, url, metrics_url = make_server()
    before = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)]
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]}, daemon=True)
    thread.start()
    told = ""
    with httpx2.Client(timeout=60) as http:
        while not (server.started and "Serving on" in (told := told + capsys.readouterr().out)):
            thread.join(0.01)
            assert thread.is_alive()
        assert http.get(f"{url}/readyz").status_code == 200
        assert http.get(f"{url}/metrics").status_code == 404
        assert "spacte_http_requests_total" in http.get(f"{metrics_url}/metrics").text
    assert [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)] == before
    server.handle_exit(signal.SIGTERM, None)
    thread.join(60)
    assert not thread.is_alive()
    with pytest.raises(httpx2.ConnectError):
        httpx2.get(url)
    assert told + capsys.readouterr().out == f"Serving on {url}\n"


async def test_the_port_is_open_while_the_workers_start_and_a_signal_ends_that(
    make_server: Any, backend: Any, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    begun, stopped = asyncio.Event(), asyncio.Event()

    async def start() -> None:
        begun.set()
        await asyncio.Event().wait()

    async def stop() -> None:
        stopped.set()

    monkeypatch.setattr(backend, "start", start)
    monkeypatch.setattr(backend, "stop", stop)
    monkeypatch.setattr(Server, "_take_signals", lambda _: None)  # those of this process are pytest's
    server, listener, url, _ = make_server()
    serving = asyncio.create_task(server.serve([listener]))
    await begun.wait()
    async with httpx2.AsyncClient(base_url=url) as http:
        assert (await http.get("/livez")).status_code == 200
    server.handle_exit(signal.SIGTERM, None)
    await asyncio.wait_for(serving, 60)
    assert stopped.is_set()
    assert server.failure is None
    assert capsys.readouterr().out == ""


async def test_workers_that_cannot_be_started_end_the_server_with_the_reason(
    make_server: Any, backend: Any, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    async def start() -> None:
        raise ClusterError("No cluster answers.")

    monkeypatch.setattr(backend, "start", start)
    monkeypatch.setattr(Server, "_take_signals", lambda _: None)
    server, listener, _, _ = make_server()
    await asyncio.wait_for(server.serve([listener]), 60)
    assert str(server.failure) == "No cluster answers."
    assert capsys.readouterr().out == ""


async def test_no_worker_is_started_for_a_store_that_cannot_be_opened(
    backend: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    done: list[str] = []

    async def start() -> None:
        done.append("started")

    monkeypatch.setattr(backend, "start", start)
    gateway = create_app(Settings(database="mysql://here/x"), backend).state.gateway
    with pytest.raises(StoreError):
        await gateway.start()
    assert done == []
