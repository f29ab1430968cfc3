"""Promise: bad input gets the right status and one clear sentence, never a 5xx, and the service goes on."""

import base64
import io
import json
import struct
import zlib
from collections.abc import Callable
from typing import Any

import httpx2
import numpy as np
import pytest
from fastapi import FastAPI
from PIL import Image as Pillow

from spacte_client.types import Problem
from spacte_service import Settings

JSON = {"Content-Type": "application/json"}


def grey(shape: tuple[int, ...] = (8, 8), kind: str = "PNG") -> bytes:
    file = io.BytesIO()
    Pillow.fromarray(np.full(shape, 7, np.uint8)).save(file, kind)
    return file.getvalue()


def npy(array: Any) -> bytes:
    file = io.BytesIO()
    np.save(file, array, allow_pickle=array.dtype.hasobject)
    return file.getvalue()


def bomb() -> bytes:
    """A PNG of a few hundred bytes that says it has 60,000 x 60,000 pixels."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", 60_000, 60_000, 8, 0, 0, 0, 0)
    pixels = zlib.compress(b"\0" * 100_000)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", pixels) + chunk(b"IEND", b"")


def body(image: bytes | None = None, **fields: Any) -> bytes:
    data = base64.b64encode(grey() if image is None else image).decode()
    return json.dumps({"image": {"type": "base64", "data": data}} | fields).encode()


BAD_IMAGES: dict[str, bytes] = {
    "text": b"this is not an image at all",
    "gif": grey(kind="GIF"),
    "truncated png": grey()[:50],
    "damaged png": grey()[:40] + b"\xff" * 20 + grey()[60:],
    "wrong size": grey((9, 8)),
    "wrong channels": grey((8, 8, 3)),
    "decompression bomb": bomb(),
    "npy with NaN": npy(np.full((1, 8, 8), np.nan, np.float32)),
    "npy with infinity": npy(np.full((1, 8, 8), np.inf, np.float32)),
    "npy out of range": npy(np.full((1, 8, 8), 255.0, np.float32)),
    "npy of text": npy(np.full((1, 8, 8), "x")),
    "npy of objects": npy(np.array([[[None] * 8] * 8])),
    "npy of one number": npy(np.float32(1)),
    "npy of five dimensions": npy(np.zeros((1, 1, 1, 8, 8), np.uint8)),
    "npy truncated": npy(np.zeros((1, 8, 8), np.uint8))[:-10],
    "npy that claims a terabyte": npy(np.zeros((1, 8, 8), np.uint8)).replace(b"(1, 8, 8)", b"(1,99999,9999999)"),
    "npy header of rubbish": b"\x93NUMPY\x01\x00\x10\x00{'descr': 1/0   }",
}

BAD_BODIES: dict[str, tuple[bytes, int, str, str | None]] = {
    "empty": (b"", 400, "bad_request", None),
    "blank": (b" \n", 400, "bad_request", None),
    "not JSON": (b"{image:", 400, "bad_request", None),
    "not UTF-8": (b"\xff\xfe{", 400, "bad_request", None),
    "nested without end": (b"[" * 100_000, 400, "bad_request", None),
    "a number of many digits": (b'{"n": ' + b"9" * 5_000 + b"}", 400, "bad_request", None),
    "NaN as a number": (body()[:-1] + b', "alpha": NaN}', 400, "bad_request", None),
    "infinity by exponent": (body()[:-1] + b', "tolerance": 1e999}', 400, "bad_request", None),
    "a list": (b"[]", 422, "validation_failed", ""),
    "null": (b"null", 422, "validation_failed", ""),
    "no image": (b"{}", 422, "validation_failed", "/image"),
    "image as text": (b'{"image": "cat.png"}', 422, "validation_failed", "/image"),
    "image of unknown type": (b'{"image": {"type": "url", "data": "x"}}', 422, "validation_failed", "/image"),
    "image without data": (b'{"image": {"type": "base64"}}', 422, "validation_failed", "/image/data"),
    "image with empty data": (b'{"image": {"type": "base64", "data": ""}}', 422, "validation_failed", "/image/data"),
    "broken base64": (
        b'{"image": {"type": "base64", "data": "iVBORw0KGgo$"}}',
        422,
        "validation_failed",
        "/image/data",
    ),
    "base64 with line breaks": (
        b'{"image": {"type": "base64", "data": "iVBO\\nRw0K"}}',
        422,
        "validation_failed",
        "/image/data",
    ),
    "a data URL": (
        b'{"image": {"type": "base64", "data": "data:image/png;base64,iVBO"}}',
        422,
        "validation_failed",
        "/image/data",
    ),
    "base64 beyond ASCII": (
        '{"image": {"type": "base64", "data": "é"}}'.encode(),
        422,
        "validation_failed",
        "/image/data",
    ),
    "half a surrogate pair": (
        b'{"image": {"type": "base64", "data": "\\ud800"}}',
        422,
        "validation_failed",
        "/image/data",
    ),
    "half a surrogate pair as a field": (body()[:-1] + b', "\\ud800": 1}', 422, "validation_failed", None),
    "a file nobody uploaded": (b'{"image": {"type": "file", "file_id": "file_1"}}', 404, "file_not_found", None),
    "unknown model": (body(model="resnet"), 404, "model_not_found", None),
    "model as a number": (body(model=3), 422, "validation_failed", "/model"),
    "n = 0": (body(n=0), 422, "validation_failed", "/n"),
    "n negative": (body(n=-5), 422, "validation_failed", "/n"),
    "n huge": (body(n=10**9), 422, "validation_failed", "/n"),
    "n beyond the operator's limit": (body(n=2_000_000), 422, "validation_failed", "/n"),
    "n as text": (body(n="1000"), 422, "validation_failed", "/n"),
    "n as truth": (body(n=True), 422, "validation_failed", "/n"),
    "n as a fraction": (body(n=10.5), 422, "validation_failed", "/n"),
    "n0 = 0": (body(n0=0), 422, "validation_failed", "/n0"),
    "n0 beyond the operator's limit": (body(n0=200_000), 422, "validation_failed", "/n0"),
    "target radius beyond any": (body(target_radius=1e22), 422, "validation_failed", "/target_radius"),
    "tolerance beyond any": (body(tolerance=1e22), 422, "validation_failed", "/tolerance"),
    "alpha = 0": (body(alpha=0), 422, "validation_failed", "/alpha"),
    "alpha = 1": (body(alpha=1), 422, "validation_failed", "/alpha"),
    "alpha negative": (body(alpha=-0.1), 422, "validation_failed", "/alpha"),
    "alpha above 1": (body(alpha=1.5), 422, "validation_failed", "/alpha"),
    "alpha tiny": (body(alpha=1e-300), 422, "validation_failed", "/alpha"),
    "unknown bound": (body(bound="hoeffding"), 422, "validation_failed", "/bound"),
    "unknown noise": (body(noise="laplace"), 422, "validation_failed", "/noise"),
    "target radius negative": (body(target_radius=-1), 422, "validation_failed", "/target_radius"),
    "deadline = 0": (body(deadline_ms=0), 422, "validation_failed", "/deadline_ms"),
    "deadline beyond the limit": (body(deadline_ms=86_000_000), 422, "validation_failed", "/deadline_ms"),
    "a seed": (body(seed="0" * 32), 422, "validation_failed", "/seed"),
    "a seed that is none": (body(seed="lucky"), 422, "validation_failed", "/seed"),
    "unknown field": (body(alhpa=0.01), 422, "validation_failed", "/alhpa"),
    "unknown field with odd characters": (body(**{"a/b~c": 1}), 422, "validation_failed", "/a~1b~0c"),
    "a thousand unknown fields": (body(**{f"field{i}": i for i in range(1000)}), 422, "validation_failed", None),
}


def assert_problem(answer: httpx2.Response, status: int, code: str) -> Problem:
    """One problem document that names its request, in one sentence."""
    assert answer.status_code == status, answer.text
    assert answer.headers["content-type"] == "application/problem+json"
    problem = Problem.model_validate_json(answer.content)
    assert problem.status == status
    assert problem.code == code
    assert problem.instance == answer.headers["x-request-id"]
    assert problem.detail.endswith((".", "?"))
    assert "Traceback" not in answer.text
    assert len(problem.detail) < 300
    return problem


async def assert_still_serving(http: httpx2.AsyncClient) -> None:
    answer = await http.post("/v1/certify", content=body(), headers=JSON)
    assert answer.status_code == 200
    assert answer.json()["label"] == 7


@pytest.mark.parametrize("route", ["/v1/certify", "/v1/predict", "/v1/certify/stream"])
@pytest.mark.parametrize("image", BAD_IMAGES.values(), ids=BAD_IMAGES)
async def test_a_bad_image_is_a_400_that_says_why(http: httpx2.AsyncClient, route: str, image: bytes) -> None:
    by_json = await http.post(route, content=body(image), headers=JSON)
    problem = assert_problem(by_json, 400, "bad_image")
    assert [error.pointer for error in problem.errors] == ["/image"]
    by_form = await http.post(route, files={"image": ("digit.png", image)})
    assert assert_problem(by_form, 400, "bad_image").detail == problem.detail
    await assert_still_serving(http)


@pytest.mark.parametrize("case", BAD_BODIES.values(), ids=BAD_BODIES)
async def test_a_bad_body_is_refused_with_a_pointer(
    http: httpx2.AsyncClient, case: tuple[bytes, int, str, str | None]
) -> None:
    content, status, code, pointer = case
    problem = assert_problem(await http.post("/v1/certify", content=content, headers=JSON), status, code)
    if pointer is not None:
        assert pointer in [error.pointer for error in problem.errors]
    await assert_still_serving(http)


async def test_a_misspelt_field_is_answered_with_the_right_one(http: httpx2.AsyncClient) -> None:
    answer = await http.post("/v1/certify", content=body(alhpa=0.01), headers=JSON)
    assert "did you mean `alpha`?" in answer.json()["detail"]


@pytest.mark.parametrize(
    ("content_type", "status"),
    [
        ("text/plain", 415),
        ("video/mp4", 415),
        ("application/x-www-form-urlencoded", 415),
        ("application/xml", 415),
        ("multipart/form-data", 400),
        ("multipart/form-data; boundary=x", 400),
        ("multipart/mixed; boundary=x", 415),
    ],
)
async def test_another_content_type_is_refused(http: httpx2.AsyncClient, content_type: str, status: int) -> None:
    answer = await http.post("/v1/certify", content=body(), headers={"Content-Type": content_type})
    assert_problem(answer, status, {415: "unsupported_media_type", 400: "bad_request"}[status])
    await assert_still_serving(http)


FORMS: dict[str, tuple[dict[str, Any], int, str]] = {
    "no image": ({"data": {"params": "{}"}, "files": {"other": b"x"}}, 422, "validation_failed"),
    "image as a field": ({"data": {"image": "x"}, "files": {"params": b"{}"}}, 422, "validation_failed"),
    "two images": ({"files": [("image", grey()), ("image", grey())]}, 422, "validation_failed"),
    "params not JSON": ({"files": {"image": grey()}, "data": {"params": "n=5"}}, 400, "bad_request"),
    "params a list": ({"files": {"image": grey()}, "data": {"params": "[]"}}, 422, "validation_failed"),
    "options outside params": ({"files": {"image": grey()}, "data": {"n": "5"}}, 422, "validation_failed"),
    "image inside params": ({"files": {"image": grey()}, "data": {"params": '{"image": 1}'}}, 422, "validation_failed"),
    "an empty file": ({"files": {"image": b""}}, 400, "bad_image"),
    "a hundred fields": ({"files": {"image": grey()}, "data": {f"f{i}": "1" for i in range(100)}}, 400, "bad_request"),
}


@pytest.mark.parametrize("case", FORMS.values(), ids=FORMS)
async def test_a_bad_form_is_refused(http: httpx2.AsyncClient, case: tuple[dict[str, Any], int, str]) -> None:
    form, status, code = case
    assert_problem(await http.post("/v1/certify", **form), status, code)
    await assert_still_serving(http)


@pytest.mark.parametrize("declared", [True, False], ids=["declared", "chunked"])
async def test_a_body_of_100_mb_is_refused_without_being_kept(http: httpx2.AsyncClient, declared: bool) -> None:
    piece = b"x" * (1 << 20)
    taken = 0

    async def pieces() -> Any:
        nonlocal taken
        for _ in range(100):
            taken += len(piece)
            yield piece

    headers = JSON | ({"Content-Length": str(100 << 20)} if declared else {})
    answer = await http.post("/v1/certify", content=pieces(), headers=headers)
    problem = assert_problem(answer, 413, "payload_too_large")
    assert "16,777,216 bytes" in problem.detail
    assert taken <= 17 << 20
    await assert_still_serving(http)


async def test_a_body_that_never_ends_is_cut_off(make_http: Callable[[Settings], httpx2.AsyncClient]) -> None:
    import asyncio

    async def drops() -> Any:
        yield b'{"image": '
        await asyncio.Event().wait()
        yield b"}"

    http = make_http(Settings(body_timeout_s=0.5))
    problem = assert_problem(await http.post("/v1/certify", content=drops(), headers=JSON), 400, "bad_request")
    assert "0.5 s" in problem.detail
    await assert_still_serving(http)


@pytest.mark.parametrize("limit", ["max_client_batch_size", "max_concurrent_per_caller"])
async def test_more_images_than_a_batch_may_hold_are_refused(
    make_http: Callable[[Settings], httpx2.AsyncClient], limit: str
) -> None:
    """Nor does it help to come back with more than a caller may have at a time."""
    changes: dict[str, Any] = {limit: 2}
    http = make_http(Settings(**changes))
    assert (await http.get("/v1/info")).json()["limits"]["max_client_batch_size"] == 2
    image = {"type": "base64", "data": base64.b64encode(grey()).decode()}
    answer = await http.post("/v1/predict", json={"images": [image] * 3})
    assert "at most 2" in assert_problem(answer, 422, "validation_failed").detail
    answer = await http.post("/v1/predict", json={"images": []})
    assert_problem(answer, 422, "validation_failed")


async def test_an_unknown_path_and_method_are_problems_too(http: httpx2.AsyncClient) -> None:
    assert_problem(await http.get("/v1/certificates"), 404, "not_found")
    assert_problem(await http.get("/v1/models/resnet"), 404, "model_not_found")
    answer = await http.get("/v1/certify")
    assert "POST" in assert_problem(answer, 405, "method_not_allowed").detail
    assert answer.headers["allow"] == "POST"


async def test_a_job_is_asked_for_in_json(http: httpx2.AsyncClient) -> None:
    answer = await http.post("/v1/jobs", files={"input": ("x.npz", b"x")})
    assert "POST /v1/files" in assert_problem(answer, 415, "unsupported_media_type").detail
    answer = await http.post("/v1/jobs", content=b" ", headers=JSON)
    assert "`input`" in assert_problem(answer, 400, "bad_request").detail


async def test_a_caller_who_leaves_before_the_body_is_whole_is_no_failure(
    app: FastAPI, http: httpx2.AsyncClient
) -> None:
    messages = [{"type": "http.request", "body": body()[:50], "more_body": True}, {"type": "http.disconnect"}]
    sent: list[Any] = []

    async def receive() -> Any:
        return messages.pop(0)

    async def send(message: Any) -> None:
        sent.append(message)

    headers = [(b"content-type", b"application/json"), (b"content-length", b"5000")]
    scope = {"type": "http", "method": "POST", "scheme": "http", "path": "/v1/certify", "headers": headers}
    await app(scope | {"query_string": b"", "client": ("127.0.0.1", 1)}, receive, send)
    assert sent[0]["status"] == 400
    assert app.state.gateway.admission.permits.held == app.state.gateway.drain.in_flight == 0
    await assert_still_serving(http)


async def test_a_form_that_is_cut_off_is_refused(http: httpx2.AsyncClient) -> None:
    whole = http.build_request("POST", "/v1/certify", files={"image": ("d.png", grey())})
    content, kind = await whole.aread(), whole.headers["content-type"]
    answer = await http.post("/v1/certify", content=content[:-6], headers={"Content-Type": kind})
    assert "closing boundary" in assert_problem(answer, 400, "bad_request").detail
    await assert_still_serving(http)
