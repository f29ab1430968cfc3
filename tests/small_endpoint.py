"""A small server of the Open Inference Protocol and the JSON form over a module, which can be made to misbehave."""

import base64
import json
import threading
import time
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import numpy as np
import torch
from torch import nn

LENGTH = "Inference-Header-Content-Length"


class SmallEndpoint:
    """Answers for a module on loopback, as a context manager.

    Attributes:
        module: pixels -> logits; may be exchanged at any time.
        version: that it states, exchangeable, too; None states none.
        failures: how many of the next requests are answered with 503.
        pause: seconds before an answer.
        spoil: changes the logits [B, K] that are sent.
        datatype: of the output that is sent.
        requests, rows: how many there were.
        headers: of the last request.
        begun: when each request for rows came.
    """

    def __init__(self, module: nn.Module, shape: tuple[int, ...], classes: int) -> None:
        self.module, self.shape, self.classes = module.eval(), shape, classes
        self.version: str | None = "1"
        self.failures, self.pause, self.status = 0, 0.0, 200
        self.spoil: Callable[[np.ndarray], np.ndarray] = lambda logits: logits
        self.datatype, self.layout = "FP32", "NCHW"
        self.binary = True
        self.body: bytes | None = None
        self.requests = self.rows = 0
        self.begun: list[float] = []
        self.headers: dict[str, str] = {}
        self._server: ThreadingHTTPServer | None = None

    def __enter__(self) -> "SmallEndpoint":
        endpoint = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self) -> None:
                if endpoint._server is None:
                    self.close_connection = True
                    return
                self.answer(200, json.dumps(endpoint.metadata()).encode(), {})

            def do_POST(self) -> None:
                raw = self.rfile.read(int(self.headers["Content-Length"]))
                endpoint.headers = dict(self.headers)
                endpoint.begun.append(time.monotonic())
                time.sleep(endpoint.pause)
                if endpoint._server is None:  # an open connection outlives the listening socket
                    self.close_connection = True
                elif endpoint.failures > 0:
                    endpoint.failures -= 1
                    self.answer(503, b"busy", {})
                elif endpoint.status != 200:
                    self.answer(endpoint.status, b"go away", {})
                else:
                    self.answer(200, *endpoint.answered(raw, self.headers.get(LENGTH), self.path))

            def answer(self, status: int, body: bytes, headers: dict[str, str]) -> None:
                self.send_response(status)
                for name, value in {**headers, "Content-Length": str(len(body))}.items():
                    self.send_header(name, value)
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *_: Any) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        threading.Thread(target=self._server.serve_forever, args=(0.01,), daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self.kill()

    def kill(self) -> None:
        """Stop answering."""
        if self._server is not None:
            self._server.shutdown()
            self._server.server_close()
            self._server = None

    @property
    def url(self) -> str:
        assert self._server is not None
        return f"http://127.0.0.1:{self._server.server_port}/v2/models/net"

    def metadata(self) -> dict[str, Any]:
        channels, height, width = self.shape
        sizes = [channels, height, width] if self.layout == "NCHW" else [height, width, channels]
        return {
            "name": "net", "versions": [] if self.version is None else [self.version], "platform": "test",
            "inputs": [{"name": "x", "datatype": "FP32", "shape": [-1, *sizes]}],
            "outputs": [
                {"name": "scores", "datatype": "FP32", "shape": [-1, self.classes]},
                {"name": "class", "datatype": "INT64", "shape": [-1]},
            ],
        }  # fmt: skip

    def answered(self, raw: bytes, length: str | None, path: str) -> tuple[bytes, dict[str, str]]:
        self.requests += 1
        if self.body is not None:
            return self.body, {}
        if not path.endswith("/infer"):
            return self._json_form(raw)
        end = len(raw) if length is None else int(length)
        asked = json.loads(raw[:end])
        tensor = asked["inputs"][0]
        values = tensor["data"] if length is None else np.frombuffer(raw[end:], "<f4")
        logits = self.logits(np.array(values, np.float32).reshape(tensor["shape"]))
        name = asked["outputs"][0]["name"]
        types = {"FP32": "<f4", "FP64": "<f8", "INT64": "<i8"}
        array = logits.argmax(1) if name == "class" else logits.astype(types.get(self.datatype, "<f4"))
        kind = "INT64" if name == "class" else self.datatype
        output: dict[str, Any] = {"name": name, "datatype": kind, "shape": list(array.shape)}
        told = {"model_name": "net", "outputs": [output]}
        if self.version is not None:
            told["model_version"] = self.version
        if length is None or not self.binary:
            output["data"] = array.ravel().tolist()
            return json.dumps(told).encode(), {}
        data = array.astype(types.get(kind, "<f4")).tobytes()
        output["parameters"] = {"binary_data_size": len(data)}
        text = json.dumps(told).encode()
        return text + data, {LENGTH: str(len(text))}

    def logits(self, x: np.ndarray) -> np.ndarray:
        self.rows += len(x)
        x = x if self.layout == "NCHW" else x.transpose(0, 3, 1, 2)
        with torch.no_grad():
            answer = self.module(torch.from_numpy(np.ascontiguousarray(x)))
        summed = answer if isinstance(answer, torch.Tensor) else torch.stack(list(answer)).sum(0)
        return self.spoil(summed.numpy())

    def _json_form(self, raw: bytes) -> tuple[bytes, dict[str, str]]:
        asked = json.loads(raw)
        assert asked["dtype"] == "float32"
        x = np.frombuffer(base64.b64decode(asked["data"]), "<f4").reshape(asked["shape"])
        return json.dumps({"logits": self.logits(x).tolist(), "version": self.version}).encode(), {}
