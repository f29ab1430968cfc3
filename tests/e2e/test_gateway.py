"""Promise: `spacte serve` as a process answers over TCP, refuses bad input, and ends in order."""

import base64
import concurrent.futures
import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx2
import numpy as np
import pytest

from spacte_client.types import Certificate, Problem

pytestmark = pytest.mark.slow

SPACTE = Path(sys.executable).with_name("spacte")
START_S = 240
FAST = ("--log-format", "json", "--precision", "fp32")


class Gateway:
    """A gateway in a process of its own, on a loopback port that it chose."""

    def __init__(self, models: Path, *options: str) -> None:
        command = [SPACTE, "serve", "--in-process", "--models", models, "--port", "0", "--log-format", "json", *options]
        environment = {name: value for name, value in os.environ.items() if not name.startswith("SPACTE_")}
        self.process = subprocess.Popen(
            [str(part) for part in command], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment
        )
        self.log = ""
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        assert line.startswith("Serving on "), self._drained()
        self.url = line.split()[-1]
        self.http = httpx2.Client(base_url=self.url, timeout=60)

    @property
    def port(self) -> int:
        return httpx2.URL(self.url).port or 0

    def ask_to_stop(self, number: int = signal.SIGTERM) -> None:
        """Send a signal, and return once the gateway has taken note of it."""
        self.process.send_signal(number)
        self._until(lambda: self.http.get("/readyz").status_code == 503)

    def until_at_work(self, requests: int) -> None:
        """Wait until so many certificates are being drawn."""
        line = f'spacte_inflight_images{{class="interactive"}} {requests:.1f}'
        self._until(lambda: line in self.http.get("/metrics").text)

    def _until(self, true: Callable[[], bool]) -> None:
        end = time.monotonic() + 30
        while not true():
            assert time.monotonic() < end, "waited too long"
            time.sleep(0.02)

    def wait(self, seconds: float = 40) -> int:
        """The exit code; the log is kept."""
        _, self.log = self.process.communicate(timeout=seconds)
        return self.process.returncode

    def close(self) -> None:
        self.http.close()
        if self.process.poll() is None:
            self.process.kill()
        with contextlib.suppress(ValueError):
            self.process.communicate()

    def _drained(self) -> str:
        self.process.kill()
        return "".join(part or "" for part in self.process.communicate())


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory, make_checkpoint: Callable[..., str]) -> Path:
    folder = tmp_path_factory.mktemp("models")
    make_checkpoint(folder / "digits")
    return folder


@pytest.fixture(scope="module")
def gateway(models: Path) -> Iterator[Gateway]:
    """One gateway for the tests that leave it running."""
    started = Gateway(models)
    yield started
    started.close()


@pytest.fixture
def start(models: Path) -> Iterator[Callable[..., Gateway]]:
    """Starts gateways that the test ends, or that are ended with it."""
    with contextlib.ExitStack() as stack:

        def start(*options: str) -> Gateway:
            started = Gateway(models, *options)
            stack.callback(started.close)
            return started

        yield start


def png(seed: int = 0) -> bytes:
    import io

    from PIL import Image as Pillow

    file = io.BytesIO()
    pixels = np.random.RandomState(seed).randint(0, 256, (8, 8)).astype(np.uint8)
    Pillow.fromarray(pixels).save(file, "PNG")
    return file.getvalue()


def certify(http: httpx2.Client, **params: Any) -> httpx2.Response:
    form = {"params": json.dumps({"n": 200} | params)}
    return http.post("/v1/certify", files={"image": ("digit.png", png())}, data=form)


def test_it_certifies_predicts_and_tells_what_it_serves(gateway: Gateway) -> None:
    certificate = Certificate.model_validate_json(certify(gateway.http, n0=50, n=400).content)
    assert sum(certificate.counts) == certificate.n == 400
    assert sum(certificate.selection_counts) == certificate.n0 == 50
    assert certificate.abstained == (certificate.label == -1)
    prediction = gateway.http.post("/v1/predict", files={"image": ("digit.png", png())}).json()
    assert sum(prediction["counts"]) == prediction["n"] == 1000
    (model,) = gateway.http.get("/v1/models").json()["data"]
    assert (model["name"], model["state"], model["sigmas"], model["input_shape"]) == (
        "digits",
        "ready",
        [0.25],
        [1, 8, 8],
    )
    assert model["version"] == certificate.model_version
    info = gateway.http.get("/v1/info").json()
    assert info["samplers"] == 1
    assert gateway.http.get("/readyz").json()["status"] == "ok"


def test_two_requests_have_noises_of_their_own(gateway: Gateway) -> None:
    first, second = certify(gateway.http).json(), certify(gateway.http).json()
    assert first["seed"] != second["seed"]
    assert first["image_sha256"] == second["image_sha256"]


def test_what_the_samplers_drew_is_in_the_metrics(gateway: Gateway) -> None:
    def drawn() -> float:
        lines = gateway.http.get("/metrics").text.splitlines()
        return sum(float(line.split()[-1]) for line in lines if line.startswith("spacte_samples_drawn_total{"))

    before = drawn()
    certify(gateway.http, n0=100, n=900)
    assert drawn() - before >= 1000


def test_the_stream_grows_and_its_certificates_agree_with_the_end(gateway: Gateway) -> None:
    form = {"params": json.dumps({"n": 50_000})}
    with gateway.http.stream("POST", "/v1/certify/stream", files={"image": ("digit.png", png())}, data=form) as answer:
        found = [(event.event, event.json()) for event in httpx2.EventSource(answer)]
    assert (found[0][0], found[-1][0]) == ("started", "result")
    progress = [data for name, data in found if name == "progress"]
    result = found[-1][1]
    for event in progress:
        certificate = Certificate.model_validate(event["certificate"])
        assert sum(certificate.counts) == certificate.n <= 50_000
        assert certificate.seed == result["seed"]
        assert certificate.selection_counts == result["selection_counts"]
        assert certificate.radius == event["radius"]
    drawn = [event["certificate"]["n"] for event in progress]
    assert drawn == sorted(drawn)


BAD: dict[str, tuple[dict[str, Any], int]] = {
    "not an image": ({"files": {"image": b"not an image"}}, 400),
    "wrong shape": ({"files": {"image": b"\x93NUMPY"}}, 400),
    "truncated PNG": ({"files": {"image": png()[:50]}}, 400),
    "an empty body": ({"content": b"", "headers": {"Content-Type": "application/json"}}, 400),
    "unknown model": ({"files": {"image": png()}, "data": {"params": '{"model": "none"}'}}, 404),
    "n = 0": ({"files": {"image": png()}, "data": {"params": '{"n": 0}'}}, 422),
    "n negative": ({"files": {"image": png()}, "data": {"params": '{"n": -1}'}}, 422),
    "n huge": ({"files": {"image": png()}, "data": {"params": '{"n": 1000000000000}'}}, 422),
    "alpha = 1": ({"files": {"image": png()}, "data": {"params": '{"alpha": 1}'}}, 422),
    "100 MB": ({"content": b"x" * (100 << 20), "headers": {"Content-Type": "application/json"}}, 413),
    "wrong content type": ({"content": b"x", "headers": {"Content-Type": "text/plain"}}, 415),
    "unknown field": ({"files": {"image": png()}, "data": {"params": '{"simga": 1}'}}, 422),
    "another sigma": ({"files": {"image": png()}, "data": {"params": '{"sigma": 3.5}'}}, 422),
    "more heads than there are": ({"files": {"image": png()}, "data": {"params": '{"k_consensus": 99}'}}, 422),
    "a seed": ({"files": {"image": png()}, "data": {"params": json.dumps({"seed": "0" * 32})}}, 422),
}


@pytest.mark.parametrize("case", BAD.values(), ids=BAD)
def test_bad_input_is_refused_and_the_gateway_goes_on(gateway: Gateway, case: tuple[dict[str, Any], int]) -> None:
    request, status = case
    answer = gateway.http.post("/v1/certify", **request)
    assert answer.status_code == status, answer.text
    problem = Problem.model_validate_json(answer.content)
    assert problem.instance == answer.headers["x-request-id"]
    assert certify(gateway.http).status_code == 200


@pytest.mark.parametrize(
    "raw",
    [
        b"\x00\x01\x02\r\n\r\n",
        b"GET / HTTP/9.9\r\n\r\n",
        b"POST /v1/certify HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: -5\r\n\r\n",
        b"POST /v1/certify HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: 50\r\n\r\n{",
        b"POST /v1/certify HTTP/1.1\r\nHost: 127.0.0.1\r\nTransfer-Encoding: chunked\r\n\r\nZZZ\r\n",
        b"GET /" + b"a" * 100_000 + b" HTTP/1.1\r\n\r\n",
    ],
    ids=["bytes", "version", "length", "short body", "chunks", "long line"],
)
def test_broken_http_is_survived(gateway: Gateway, raw: bytes) -> None:
    with socket.create_connection(("127.0.0.1", gateway.port), 5) as connection:
        connection.sendall(raw)
        connection.shutdown(socket.SHUT_WR)
        with contextlib.suppress(ConnectionError):
            head = connection.recv(100)
            assert not head.startswith(b"HTTP/1.1 5")
    assert certify(gateway.http).status_code == 200


def test_another_host_name_or_origin_is_refused(gateway: Gateway) -> None:
    assert gateway.http.get("/livez", headers={"Host": "evil.example"}).status_code == 403
    assert gateway.http.get("/livez", headers={"Host": f"localhost:{gateway.port}"}).status_code == 200
    foreign = gateway.http.post("/v1/models/digits/unload", headers={"Origin": "http://evil.example"})
    assert foreign.status_code == 403
    assert certify(gateway.http).status_code == 200


def test_a_caller_who_hangs_up_frees_the_sampler(gateway: Gateway) -> None:
    form = {"params": json.dumps({"n": 1_000_000})}
    with pytest.raises(httpx2.TimeoutException):
        gateway.http.post("/v1/certify", files={"image": ("d.png", png())}, data=form, timeout=0.5)
    gateway.until_at_work(0)
    assert certify(gateway.http, n=100).status_code == 200


def test_a_deadline_is_kept_with_what_is_proven_by_then(gateway: Gateway) -> None:
    answer = certify(gateway.http, n=1_000_000, deadline_ms=2000).json()
    assert answer["stop_reason"] == "deadline"
    assert answer["deadline_ms"] == 2000
    assert answer["elapsed_ms"] < 6000  # one engine job beyond it, and a machine that may be busy
    assert 0 < answer["n"] < 1_000_000


@pytest.mark.long
def test_sigterm_finishes_what_is_in_flight_and_refuses_the_rest(start: Callable[..., Gateway]) -> None:
    gateway = start()
    with concurrent.futures.ThreadPoolExecutor() as pool:
        running = [pool.submit(certify, gateway.http, n=1_000_000, deadline_ms=8000 + 100 * i) for i in range(3)]
        gateway.until_at_work(3)
        signalled = time.monotonic()
        gateway.ask_to_stop()
        refused = certify(gateway.http)
        assert (refused.status_code, refused.json()["code"]) == (503, "draining")
        assert int(refused.headers["retry-after"]) >= 1
        assert [answer.result().status_code for answer in running] == [200] * 3
    assert gateway.wait() == 0
    assert time.monotonic() - signalled < 30
    lines = [json.loads(line) for line in gateway.log.splitlines()]
    assert {"certified", "request", "stopped"} <= {line["event"] for line in lines}
    certified = next(line for line in lines if line["event"] == "certified")
    assert certified["request_id"].startswith("req_")


@pytest.mark.long
def test_what_takes_too_long_to_drain_is_told_so(start: Callable[..., Gateway]) -> None:
    gateway = start("--drain-timeout-s", "0.5")
    with concurrent.futures.ThreadPoolExecutor() as pool:
        running = pool.submit(certify, gateway.http, n=1_000_000)
        gateway.until_at_work(1)
        gateway.process.terminate()
        answer = running.result()
    assert (answer.status_code, answer.json()["code"]) == (503, "draining")
    assert gateway.wait() == 0


@pytest.mark.long
def test_the_second_signal_ends_at_once(start: Callable[..., Gateway]) -> None:
    gateway = start()
    with concurrent.futures.ThreadPoolExecutor() as pool:
        running = pool.submit(certify, gateway.http, n=1_000_000)
        gateway.until_at_work(1)
        gateway.ask_to_stop(signal.SIGINT)
        gateway.process.send_signal(signal.SIGINT)
        gateway.wait(20)  # by the first signal alone it would have 25 s
        with contextlib.suppress(httpx2.HTTPError):
            running.result()


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    environment = {name: value for name, value in os.environ.items() if not name.startswith("SPACTE_")}
    return subprocess.run(
        [str(SPACTE), *arguments], capture_output=True, text=True, timeout=START_S, env=environment, check=False
    )


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("--host", "0.0.0.0"), "allow-anonymous"),
        (("--port", "99999"), "port"),
        (("--port", "{taken}"), "port {taken}"),
        (("--keys-file", "{folder}/none.json"), "spacte keys create"),
        (("--tls-cert", "cert.pem"), "tls-key"),
        (("--tls-cert", "cert.pem", "--tls-key", "key.pem"), "No such file"),
        (("--database", "postgresql://user@127.0.0.1:1/none"), "check the URL and that it runs"),
    ],
)
def test_what_cannot_be_served_is_said_in_one_sentence(tmp_path: Path, arguments: tuple[str, ...], words: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        names = {"taken": other.getsockname()[1], "folder": tmp_path}
        filled = [argument.format(**names) for argument in arguments]
        result = run("serve", "--in-process", "--models", str(tmp_path), "--port", "0", *filled)
    assert result.returncode == 1, result.stderr
    assert words.format(**names) in " ".join(result.stderr.split())
    assert result.stderr.startswith("Error: ")
    assert len(result.stderr.splitlines()) <= 2


def test_a_folder_without_a_model_is_served_and_warned_of(tmp_path: Path) -> None:
    gateway = Gateway(tmp_path)
    try:
        ready = gateway.http.get("/readyz")
        assert (ready.status_code, ready.json()["checks"]["models"]) == (503, "No model is loaded.")
        gateway.process.terminate()
        assert gateway.wait() == 0
    finally:
        gateway.close()
    (warning,) = [line for line in map(json.loads, gateway.log.splitlines()) if line["level"] == "warning"]
    assert "--models" in warning["event"]
    assert warning["models"] == str(tmp_path)


def test_settings_come_from_the_environment_too() -> None:
    result = subprocess.run(
        [str(SPACTE), "serve"],
        capture_output=True,
        text=True,
        timeout=START_S,
        env=os.environ | {"SPACTE_PORT": "none"},
        check=False,
    )
    assert result.returncode != 0
    assert "SPACTE_PORT" in result.stderr


def test_base64_in_json_is_the_same_image(gateway: Gateway) -> None:
    body = {"image": {"type": "base64", "data": base64.b64encode(png()).decode()}, "n": 200}
    by_json = gateway.http.post("/v1/certify", json=body).json()
    assert by_json["image_sha256"] == certify(gateway.http).json()["image_sha256"]
