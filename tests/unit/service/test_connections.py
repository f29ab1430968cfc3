"""Promise: whoever says nothing, or says it slowly, takes no connection from those who ask and read."""

import asyncio
import contextlib
import errno
import json
import logging
import resource
import shutil
import socket
import time
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import httpx2
import pytest

from spacte_service import Settings, connections, create_app
from spacte_service.connections import Connections, network_of
from spacte_service.listening import bind, server_config
from spacte_service.logs import OnceASecond
from spacte_service.server import Server

LIVEZ = b"GET /livez HTTP/1.1\r\nHost: a\r\n\r\n"
PREDICT = b"POST /v1/predict HTTP/1.1\r\nHost: a\r\nContent-Type: image/png\r\nContent-Length: 99\r\n\r\n"
Peer = tuple[asyncio.StreamReader, asyncio.StreamWriter]


@pytest.fixture
def serve(
    backend: Any, monkeypatch: pytest.MonkeyPatch
) -> Callable[..., contextlib.AbstractAsyncContextManager[Callable[..., Any]]]:
    """`async with serve(**settings) as connect` runs a server; `await connect(bytes)` connects and sends."""
    monkeypatch.setattr(Server, "_take_signals", lambda _: None)  # those of this process are pytest's

    @contextlib.asynccontextmanager
    async def run(**settings: Any) -> AsyncIterator[Callable[..., Any]]:
        settings = {"max_connections": 4, "max_connections_per_address": 4} | settings
        app = create_app(Settings(**settings), backend)
        with bind("127.0.0.1", 0) as listener:
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1 << 14)  # else the kernel takes megabytes
            port = listener.getsockname()[1]
            gateway = app.state.gateway
            server = Server(server_config(app, Settings(**settings), listener), lambda: gateway, gateway.settings, "")
            serving = asyncio.create_task(server.serve([listener]))
            while not server.started:  # noqa: ASYNC110  uvicorn has no event of it
                await asyncio.sleep(0.01)
            peers: list[asyncio.StreamWriter] = []

            async def connect(first: bytes = b"", address: str = "127.0.0.1") -> Peer:
                peer = await asyncio.open_connection("127.0.0.1", port, local_addr=(address, 0))
                peers.append(peer[1])
                peer[1].write(first)
                await peer[1].drain()
                await asyncio.sleep(0.02)
                return peer

            try:
                yield connect
            finally:
                for writer in peers:
                    writer.close()
                server.should_exit = True
                await serving

    return run


async def answer(peer: Peer) -> bytes:
    """All until the next end of a head, or of the connection."""
    with contextlib.suppress(asyncio.IncompleteReadError, ConnectionError):
        return await asyncio.wait_for(peer[0].readuntil(b"\r\n\r\n"), 5)
    return b""


async def parts(connected: socket.socket) -> AsyncIterator[bytes]:
    """What comes until the other side has closed."""
    async with asyncio.timeout(5):
        while part := await asyncio.get_running_loop().sock_recv(connected, 1000):
            yield part


async def closed_after(peer: Peer) -> float:
    """Seconds until the server closes a connection."""
    began = time.monotonic()
    with contextlib.suppress(ConnectionError):
        await asyncio.wait_for(peer[0].read(), 5)
    return time.monotonic() - began


def is_open(peer: Peer) -> bool:
    return not peer[0].at_eof() and peer[0].exception() is None


async def test_one_more_takes_the_place_of_the_longest_silent(serve: Any) -> None:
    async with serve() as connect:
        halves = [await connect(part) for part in (b"", b"GET /livez HT", b"", PREDICT)]
        asking = await connect(LIVEZ)
        assert b" 200 " in await answer(asking)
        assert [is_open(peer) for peer in halves] == [False, True, True, True]
        halves[1][1].write(b"TP/1.1\r\nHost: a\r\n\r\n")  # those that are left are whole
        assert b" 200 " in await answer(halves[1])


async def test_a_slow_body_is_ended_where_nobody_is_silent(serve: Any) -> None:
    async with serve() as connect:
        slow = [await connect(PREDICT) for _ in range(4)]
        assert b" 200 " in await answer(await connect(LIVEZ))
        assert [is_open(peer) for peer in slow] == [False, True, True, True]


async def test_slow_bodies_that_hold_most_places_end_before_a_fresh_silent_one(serve: Any) -> None:
    async with serve() as connect:
        slow = [await connect(PREDICT) for _ in range(3)]
        fresh = await connect()
        await connect()
        assert [is_open(peer) for peer in (*slow, fresh)] == [False, True, True, True]


@pytest.mark.slow
async def test_a_silent_one_that_is_no_longer_fresh_ends_before_slow_bodies(
    serve: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(connections, "FRESH_S", 0.1)
    async with serve() as connect:
        slow = [await connect(PREDICT) for _ in range(3)]
        silent = await connect()
        await asyncio.sleep(0.2)
        await connect()
        assert [is_open(peer) for peer in (*slow, silent)] == [True, True, True, False]


async def test_a_request_that_comes_amid_a_burst_is_read(serve: Any) -> None:
    async with serve(max_connections=12, max_connections_per_address=12) as connect:
        slow = [await connect(PREDICT) for _ in range(12)]
        at = slow[0][1].get_extra_info("peername")
        with contextlib.ExitStack() as open_sockets:  # all of them before the server's next turn
            burst = [open_sockets.enter_context(socket.create_connection(at)) for _ in range(3)]
            asking = open_sockets.enter_context(socket.create_connection(at))
            asking.sendall(LIVEZ)
            burst += [open_sockets.enter_context(socket.create_connection(at)) for _ in range(40)]
            asking.setblocking(False)
            async with asyncio.timeout(5):
                got = await asyncio.get_running_loop().sock_recv(asking, 100)
        assert got.startswith(b"HTTP/1.1 200 ")


async def test_a_request_that_is_broken_off_is_no_line_of_the_log(serve: Any, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "spacte.http")
    async with serve() as connect:
        (await connect(PREDICT.replace(b"image/png", b"application/json") + b"{"))[1].close()
        await answer(await connect(LIVEZ))
        await asyncio.sleep(0.05)
    assert [record.msg["path"] for record in caplog.records if record.name == "spacte.http"] == ["/livez"]


async def test_a_connection_at_work_is_kept_and_one_more_gets_503(serve: Any, backend: Any, png: Any) -> None:
    backend.gate.clear()
    body = b'--b\r\nContent-Disposition: form-data; name="image"; filename="a.png"\r\n\r\n' + png() + b"\r\n--b--\r\n"
    head = PREDICT.replace(b"image/png", b"multipart/form-data; boundary=b").replace(b"99", b"%d" % len(body))
    async with serve() as connect:
        working = [await connect(head + body) for _ in range(4)]
        with socket.create_connection(working[0][1].get_extra_info("peername")) as more:
            more.sendall(LIVEZ)
            more.setblocking(False)
            refusal = b"".join([part async for part in parts(more)])  # to its end: it is not reset
        assert refusal.startswith(b"HTTP/1.1 503 ")
        assert b"retry-after: 1\r\n" in refusal
        assert json.loads(refusal.partition(b"\r\n\r\n")[2])["code"] == "overloaded"
        backend.gate.set()
        assert all([b" 200 " in await answer(peer) for peer in working])


async def test_one_address_does_not_take_the_places_of_others(serve: Any) -> None:
    async with serve(max_connections=6, max_connections_per_address=4) as connect:
        others = [await connect(address="127.0.0.2") for _ in range(2)]
        mine = [await connect() for _ in range(6)]
        assert all(map(is_open, others))
        assert [is_open(peer) for peer in mine] == [False] * 2 + [True] * 4


@pytest.mark.slow
@pytest.mark.parametrize("first", [b"", b"GET /livez HTTP/1.1\r\nHost: ", LIVEZ + b"GET /li"])
async def test_a_head_has_its_time_however_it_trickles(serve: Any, first: bytes) -> None:
    async with serve(head_timeout_s=0.3, idle_timeout_s=1) as connect:
        peer = await connect(first)

        async def trickle() -> None:
            with contextlib.suppress(ConnectionError):
                while True:
                    peer[1].write(b"x" if first else b"")
                    await asyncio.sleep(0.05)

        trickling = asyncio.create_task(trickle())
        assert 0.2 < await closed_after(peer) < 2
        trickling.cancel()


async def test_a_connection_between_two_requests_lives_on(serve: Any) -> None:
    async with serve(head_timeout_s=0.2, idle_timeout_s=2) as connect:
        peer = await connect(LIVEZ)
        await answer(peer)
        await asyncio.sleep(0.5)
        peer[1].write(LIVEZ)
        await asyncio.wait_for(peer[0].readuntil(b" 200 "), 5)


@pytest.mark.slow
@pytest.mark.parametrize("reads", [True, False])
async def test_an_answer_that_nobody_reads_is_given_up(serve: Any, reads: bool) -> None:
    asking = b"GET /openapi.json HTTP/1.1\r\nHost: a\r\n\r\n"
    async with serve(write_timeout_s=0.2, idle_timeout_s=9) as connect:
        peer = await connect()
        transport: Any = peer[1].transport
        transport.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        transport.pause_reading()
        peer[1].write(9 * asking)  # more than both kernels' buffers hold
        await asyncio.sleep(0 if reads else 0.8)
        transport.resume_reading()
        with contextlib.suppress(ConnectionError, TimeoutError):
            async with asyncio.timeout(0.8 if reads else 9):
                while await peer[0].read(4096):
                    pass
        assert is_open(peer) is reads


def test_a_network_is_an_address_or_64_bits_of_one() -> None:
    assert network_of("192.0.2.1") == network_of("::ffff:192.0.2.1") == "192.0.2.1"
    assert network_of("2001:db8::1") == network_of("2001:db8::ffff") != network_of("2001:db8:0:1::1")
    assert network_of("fe80::1%eth0") == "fe80::"


def test_descriptors_bound_the_connections(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(resource, "getrlimit", lambda _: (512, 512))
    few = Connections(Settings())
    assert (few.most, few.most_of_a_network) == (318, 238)
    assert Connections(Settings(max_connections=20, max_connections_per_address=15)).most_of_a_network == 15


def test_the_bound_of_an_address_is_a_part_of_all() -> None:
    with pytest.raises(ValueError, match="must not exceed --max-connections"):
        Settings(max_connections=5, max_connections_per_address=6)


@pytest.mark.slow
async def test_want_of_descriptors_is_logged_once_and_passes(
    serve: Any, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    async with serve() as connect:
        with monkeypatch.context() as patch:
            patch.setattr(socket.socket, "accept", lambda _: (_ for _ in ()).throw(OSError(errno.EMFILE, "none")))
            peer = await connect(LIVEZ)
            await asyncio.sleep(0.1)
        assert len(caplog.records) <= 2  # ours and asyncio's
        assert b" 200 " in await answer(peer)


@pytest.mark.slow
async def test_the_documented_front_passes_requests_on(serve: Any, tmp_path: Path) -> None:
    """With the shipped file, but for its addresses and certificate."""
    if shutil.which("nginx") is None or shutil.which("openssl") is None:
        pytest.skip("nginx and openssl are needed: apt-get install nginx-light openssl")
    request = ["req", "-x509", "-newkey", "rsa:2048", "-nodes", "-subj", "/CN=spacte.example", "-days", "2"]
    files = ["-keyout", str(tmp_path / "spacte.key"), "-out", str(tmp_path / "spacte.crt")]
    quiet = {"stdout": asyncio.subprocess.DEVNULL, "stderr": asyncio.subprocess.DEVNULL}
    await (await asyncio.create_subprocess_exec("openssl", *request, *files, **quiet)).wait()
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    async with serve() as connect:
        gateway = (await connect())[1].get_extra_info("peername")[1]
        text = (Path(__file__).parents[3] / "deploy" / "nginx.conf").read_text()
        addresses = ("443", str(port)), ("gateway:8000", f"127.0.0.1:{gateway}"), ("/etc/nginx", str(tmp_path))
        for old, new in addresses:
            assert old in text
            text = text.replace(old, new)
        (tmp_path / "nginx.conf").write_text(text)
        options = ["-p", str(tmp_path), "-c", str(tmp_path / "nginx.conf"), "-e", str(tmp_path / "log")]
        options += ["-g", f"daemon off; pid {tmp_path / 'pid'};"]
        nginx = await asyncio.create_subprocess_exec("nginx", *options, **quiet)
        try:
            async with httpx2.AsyncClient(base_url=f"https://127.0.0.1:{port}", verify=False) as http:
                for _ in range(100):
                    with contextlib.suppress(httpx2.ConnectError):
                        assert (await http.get("/livez", headers={"Host": "localhost"})).status_code == 200
                        break
                    await asyncio.sleep(0.05)
                else:
                    pytest.fail((tmp_path / "log").read_text())
        finally:
            nginx.terminate()
            await nginx.wait()


def test_a_line_that_callers_cause_is_written_once_a_second() -> None:
    once = OnceASecond()

    def line(message: str, created: float, level: int = logging.WARNING) -> logging.LogRecord:
        record = logging.LogRecord("uvicorn.error", level, "", 0, message, None, None)
        record.created = created
        return record

    passed = [once.filter(line("Invalid HTTP request received.", 100 + tenth / 10)) for tenth in range(20)]
    assert passed == [tenth in (0, 10) for tenth in range(20)]
    assert once.filter(line("another", 100.1))
    assert all(once.filter(line("broken", 100.1, logging.ERROR)) for _ in range(3))
