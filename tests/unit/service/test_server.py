"""Promise: the server starts the workers before the port, says where it serves, and ends in order when told to."""

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
from spacte_service.server import Server, bind, metrics_port
from spacte_service.store import StoreError


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
            return Server(config, gateway, url), listener, url, f"http://127.0.0.1:{port}"

        yield make


def test_it_serves_until_it_is_told_to_stop(make_server: Any, capsys: pytest.CaptureFixture[str]) -> None:
    """Not on the main thread, where it leaves the signals alone."""
    server, listener, url, metrics_url = make_server()
    before = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)]
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]}, daemon=True)
    thread.start()
    with httpx2.Client(timeout=60) as http:
        while not server.started:
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
    assert capsys.readouterr().out == f"Serving on {url}\n"


async def test_a_signal_ends_a_start_that_takes_long(
    make_server: Any, backend: Any, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    begun = asyncio.Event()

    async def start() -> None:
        begun.set()
        await asyncio.Event().wait()

    monkeypatch.setattr(backend, "start", start)
    monkeypatch.setattr(Server, "_take_signals", lambda _: None)  # those of this process are pytest's
    server, listener, _, _ = make_server()
    starting = asyncio.create_task(server.startup([listener]))
    await begun.wait()
    server.handle_exit(signal.SIGTERM, None)
    await asyncio.wait_for(starting, 60)
    assert server.should_exit
    assert not server.started
    assert capsys.readouterr().out == ""


async def test_workers_do_not_outlive_a_start_that_fails(backend: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    done: list[str] = []

    async def start() -> None:
        done.append("started")

    async def stop() -> None:
        done.append("stopped")

    monkeypatch.setattr(backend, "start", start)
    monkeypatch.setattr(backend, "stop", stop)
    gateway = create_app(Settings(database="mysql://here/x"), backend).state.gateway
    with pytest.raises(StoreError):
        await gateway.start()
    assert done == ["started", "stopped"]
