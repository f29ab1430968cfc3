"""`spacte certify`, `predict`, `models` and `info`: lines, JSON, exit statuses; also on the real gateway."""

import io
import json
from pathlib import Path
from typing import Any

import httpx2
import pytest
from PIL import Image
from rich.console import Console

from spacte_client.cli import images
from spacte_client.types import Certificate, Prediction, ProgressEvent

from .conftest import ABSTENTION, CERTIFICATE, INFO, MODEL, PREDICTION, Recorder, Spacte, problem, sse
from .test_client import form

STARTED = ("started", {"request_id": "req_1", "model": "digits", "n_max": 1000, "looks": 5})
PROGRESS = ("progress", {"samples": 400, "top_label": 7, "p_lower": 0.9, "radius": 0.32, "looks_done": 2})


@pytest.fixture
def digit(tmp_path: Path) -> str:
    path = tmp_path / "digit.png"
    Image.frombytes("L", (8, 8), bytes(range(0, 256, 4))).save(path)
    return str(path)


def test_a_certified_image_is_a_line_and_status_0(spacte: Spacte, digit: str) -> None:
    recorder = Recorder(CERTIFICATE)
    run = spacte("certify", digit, "--n", "1000", "--sigma", "0.25", "--bound", "two_class", handler=recorder)
    assert (run.status, run.err) == (0, "")
    assert run.out == (f"{digit}  seven (7)  radius 0.5123  sigma 0.25, alpha 0.001, n 1,000, 1.2 s\n")
    assert json.loads(form(recorder.last)["params"]) == {"n": 1000, "sigma": 0.25, "bound": "two_class"}


def test_of_a_thousand_classes_ten_are_shown(spacte: Spacte, digit: str) -> None:
    counts = [0] * 980 + list(range(20))
    answer = CERTIFICATE | {"counts": counts, "n": sum(counts)}
    model = MODEL | {"num_classes": 1000, "class_names": [f"class {k}" for k in range(1000)]}
    run = spacte("certify", digit, "--votes", handler=Recorder(answer, model))
    lines = run.out.splitlines()[1:]
    assert len(lines) == 10
    assert lines[0].split() == ["10.00%", "19", "class", "999", "(999)"]


def test_an_abstention_is_status_3(spacte: Spacte, digit: str) -> None:
    run = spacte("certify", digit, handler=Recorder(ABSTENTION))
    assert run.status == 3
    assert "abstains" in run.out
    assert "radius" not in run.out


def test_json_is_the_certificate_itself(spacte: Spacte, digit: str) -> None:
    run = spacte("certify", digit, "--json", handler=Recorder(CERTIFICATE))
    assert Certificate.model_validate_json(run.out) == Certificate.model_validate(CERTIFICATE)


def test_a_failure_is_one_sentence_and_status_1(spacte: Spacte, digit: str) -> None:
    run = spacte("certify", digit, handler=Recorder(problem(400, "bad_image", "Send a PNG.")))
    assert run == (1, "", f"Error: {digit}: Send a PNG.\n")
    run = spacte("certify", "no-such.png", handler=Recorder(CERTIFICATE))
    assert run.status == 1
    assert run.err.count("\n") == 1
    assert "check the path" in run.err


def test_several_images_go_on_after_a_failure(spacte: Spacte, digit: str) -> None:
    recorder = Recorder(CERTIFICATE, problem(400, "bad_image", "Send a PNG."), ABSTENTION)
    run = spacte("certify", digit, digit, digit, "no-such.png", "--json", handler=recorder)
    assert run.status == 1
    lines = [json.loads(line) for line in run.out.splitlines()]
    assert [line.get("label") for line in lines] == [7, None, -1, None]
    assert lines[1] == {"image": digit, "error": {"code": "bad_image", "detail": "Send a PNG."}}
    assert lines[3]["error"]["code"] == "InvalidArgumentError"
    assert run.err.count("Error: ") == 2
    assert spacte("certify", digit, digit, handler=Recorder(ABSTENTION, CERTIFICATE)).status == 3


def test_an_image_on_stdin(spacte: Spacte, digit: str, monkeypatch: pytest.MonkeyPatch) -> None:
    stdin = io.TextIOWrapper(io.BytesIO(b"PNG bytes"))
    monkeypatch.setattr("sys.stdin", stdin)
    recorder = Recorder(CERTIFICATE)
    assert spacte("certify", "-", handler=recorder).status == 0
    assert form(recorder.last)["image"] == b"PNG bytes"


@pytest.mark.parametrize("arguments", [("certify",), ("certify", "x", "--nn"), ("certify", "x", "--n", "0"), ("nope",)])
def test_a_usage_error_is_status_2(spacte: Spacte, arguments: tuple[str, ...]) -> None:
    run = spacte(*arguments, handler=Recorder(CERTIFICATE))
    assert run.status == 2
    assert "Error: " in run.err
    assert "Traceback" not in run.err


def test_predict(spacte: Spacte, digit: str) -> None:
    recorder = Recorder(PREDICTION)
    run = spacte("predict", digit, "--n", "500", "--resize", handler=recorder)
    assert run == (0, f"{digit}  3  sigma 0.25, alpha 0.001, n 1,000, 0.2 s\n", "")
    assert json.loads(form(recorder.last)["params"]) == {"n": 500, "resize": True}
    abstention = Recorder(PREDICTION | {"label": -1, "label_name": None, "abstained": True})
    assert spacte("predict", digit, handler=abstention).status == 3
    run = spacte("predict", digit, "--json", handler=Recorder(PREDICTION))
    assert Prediction.model_validate_json(run.out).p_value == 1e-9


def test_models(spacte: Spacte) -> None:
    run = spacte("models", handler=Recorder({"data": [MODEL]}))
    assert run.status == 0
    assert run.out.splitlines()[1].split() == [
        "digits", "ready", "0.25", "10", "1", "x", "8", "x", "8", "5", "spacte-gaussian", "abababababab",
    ]  # fmt: skip
    run = spacte("models", "--json", handler=Recorder({"data": [MODEL]}))
    assert [model["name"] for model in json.loads(run.out)] == ["digits"]
    recorder = Recorder(MODEL)
    run = spacte("models", "digits", "--json", handler=recorder)
    assert json.loads(run.out)["name"] == "digits"
    assert recorder.last.url.path == "/v1/models/digits"
    pinned = f"s3://b/digits#sha256={64 * 'a'}"
    assert spacte("models", "digits", "--load", "--source", pinned, "--share", "0.5", handler=recorder).status == 0
    assert recorder.last.url.path == "/v1/models/digits/load"
    assert json.loads(recorder.last.content) == {"traffic": 0.5, "source": pinned}
    assert spacte("models", "digits", "--source", pinned, handler=recorder).status == 2


def test_info(spacte: Spacte) -> None:
    run = spacte("info", handler=Recorder(INFO))
    rows = [line.split(None, 1) for line in run.out.splitlines()]
    assert {name: text.strip() for name, text in rows} == {
        "version": "0.1.0",
        "samplers": "2 on cpu",
        "n_max": "100,000",
        "allow_client_seed": "false",
    }
    assert json.loads(spacte("info", "--json", handler=Recorder(INFO)).out)["samplers"] == 2


def test_options_reach_the_client(spacte: Spacte) -> None:
    recorder = Recorder(INFO)
    spacte("info", "--base-url", "http://gateway.example:1", "--api-key", "k", handler=recorder)
    assert recorder.last.url.host == "gateway.example"
    assert recorder.last.headers["authorization"] == "Bearer k"


def test_a_server_failure_names_the_request(spacte: Spacte, slept: list[float]) -> None:
    run = spacte("info", handler=Recorder(problem(500, "internal", "Try again.")))
    assert run == (1, "", "Error: Try again. [500 internal, req_9]\n")
    run = spacte("info", handler=Recorder(problem(401, "unauthenticated", "Send a key.")))
    assert run == (1, "", "Error: Send a key.\n")


def test_no_gateway_is_one_sentence(spacte: Spacte, slept: list[float]) -> None:
    run = spacte("info", "--base-url", "http://127.0.0.1:9")
    assert run.status == 1
    assert run.err.startswith("Error: Nothing answers at http://127.0.0.1:9 ")
    assert run.err.count("\n") == 1


class Terminal:
    """A terminal that remembers what was written."""

    def __init__(self, handler: Any) -> None:
        from spacte_client import Client

        self.file = io.StringIO()
        console = Console(file=self.file, force_terminal=True, width=250, highlight=False)
        client = Client(transport=httpx2.MockTransport(handler))
        self.ask = images.ImageCertifier(client, {"n": 1000}, console)


def test_a_terminal_shows_the_proof_as_it_grows(digit: str) -> None:
    body = sse(STARTED, PROGRESS, ("result", CERTIFICATE))
    recorder = Recorder(httpx2.Response(200, content=body, headers={"content-type": "text/event-stream"}))
    terminal = Terminal(recorder)
    assert terminal.ask(digit).label == 7
    assert [request.url.path for request in recorder.requests] == ["/v1/certify/stream"]
    assert "0.3200" in terminal.file.getvalue()
    assert "400 of 1,000 noises" in terminal.file.getvalue()


@pytest.mark.parametrize("refusal", [problem(404, "not_found"), problem(405, "method_not_allowed")])
def test_a_gateway_without_the_stream_is_asked_plainly(digit: str, refusal: httpx2.Response) -> None:
    recorder = Recorder(refusal, CERTIFICATE)
    terminal = Terminal(recorder)
    assert terminal.ask(digit).label == 7
    assert terminal.ask(digit).label == 7
    assert [request.url.path for request in recorder.requests] == ["/v1/certify/stream", "/v1/certify", "/v1/certify"]


def test_a_missing_model_is_not_a_missing_stream(digit: str) -> None:
    from spacte_client import NotFoundError

    with pytest.raises(NotFoundError):
        Terminal(Recorder(problem(404, "model_not_found"))).ask(digit)


def test_lines_round_radii_down_and_name_the_reason_to_stop() -> None:
    certificate = Certificate.model_validate(CERTIFICATE | {"radius": 0.99999, "stop_reason": "target"})
    assert "radius 0.9999  " in images.answer_line("x", certificate).plain
    assert "stopped at target" in images.answer_line("x", certificate).plain
    progress = ProgressEvent(samples=1, top_label=2, p_lower=0.9, radius=0.12345, looks_done=1, eta_ms=9000)
    assert "radius 0.1234 proven" in images.progress_line("x", progress, 10).plain
    assert "9 s left" in images.progress_line("x", progress, 10).plain


@pytest.mark.slow
def test_the_real_gateway_answers_the_command_line(spacte: Spacte, live_gateway: str, digit: str) -> None:
    run = spacte("certify", digit, "--n", "200", "--n0", "20", "--base-url", live_gateway, "--json")
    certificate = Certificate.model_validate_json(run.out)
    assert run.status == (3 if certificate.abstained else 0)
    assert sum(certificate.counts) == 200
    assert "digits" in spacte("models", "--base-url", live_gateway).out
    run = spacte("certify", digit, "--model", "nothing", "--base-url", live_gateway)
    assert run.status == 1
    assert run.err.count("\n") == 1
    run = spacte("certify", digit, "--n", "500", "--live", "--base-url", live_gateway)
    assert run.status in (0, 3)
    assert run.out.startswith(digit)
    assert run.out.count("\n") == 1
