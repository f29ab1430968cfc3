"""Promise: clients of the Open Inference Protocol ask for smoothed predictions as they ask any other server."""

import contextlib
import gzip
import json
import os
import subprocess
import threading
import time
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx2
import numpy as np
import pytest
import uvicorn

from spacte_service import Settings, create_app

INFER = "/v2/models/digits/infer"


def tensor(**changes: Any) -> dict[str, Any]:
    return {"name": "image", "datatype": "UINT8", "shape": [1, 1, 8, 8], "data": [3] * 64} | changes


def body(*inputs: dict[str, Any], **more: Any) -> dict[str, Any]:
    return {"inputs": list(inputs or [tensor()]), **more}


async def test_a_prediction_in_json(http: httpx2.AsyncClient, backend: Any) -> None:
    asked = body(tensor(shape=[2, 1, 8, 8], data=[3] * 64 + [5] * 64), id="mine", parameters={"n": 50, "alpha": 0.01})
    answer = (await http.post(INFER, json=asked)).json()
    assert (answer["id"], answer["model_name"]) == ("mine", "digits")
    label, counts = answer["outputs"]
    assert label == {"name": "label", "datatype": "INT64", "shape": [2], "data": [3, 5]}
    assert (counts["shape"], sum(counts["data"]), counts["data"][3], counts["data"][15]) == ([2, 10], 100, 50, 50)
    assert [(p.model, p.n, p.alpha) for p in backend.params] == [("digits", 50, 0.01)] * 2


@pytest.mark.parametrize(
    "image",
    [
        tensor(shape=[1, 8, 8]),
        tensor(data=[[[[3] * 8] * 8]]),
        tensor(datatype="FP32", data=[3 / 255] * 64),
        tensor(datatype="FP32", data=np.full(64, np.float32(3) / np.float32(255)).tolist()),
    ],
)
async def test_the_same_image_in_other_words(http: httpx2.AsyncClient, image: dict[str, Any]) -> None:
    answer = (await http.post(INFER, json=body(image, outputs=[{"name": "label"}]))).json()
    assert answer["outputs"] == [{"name": "label", "datatype": "INT64", "shape": [1], "data": [3]}]


async def test_binary_tensors_both_ways(http: httpx2.AsyncClient) -> None:
    image = tensor(data=None, parameters={"binary_data_size": 64})
    text = json.dumps(body(image, parameters={"binary_data_output": True})).encode()
    headers = {"Inference-Header-Content-Length": str(len(text)), "Content-Type": "application/octet-stream"}
    answer = await http.post(INFER, content=text + bytes([4] * 64), headers=headers)
    end = int(answer.headers["Inference-Header-Content-Length"])
    sizes = [output["parameters"]["binary_data_size"] for output in json.loads(answer.content[:end])["outputs"]]
    assert sizes == [8, 80]
    values = np.frombuffer(answer.content[end:], "<i8")
    assert (values[0], values[1 + 4], values[1:].sum()) == (4, 1000, 1000)


@pytest.mark.parametrize(
    ("asked", "status", "words"),
    [
        ({}, 422, "inputs"),
        (body(tensor(name="x")), 422, "image"),
        (body(tensor(), tensor()), 422, "inputs"),
        (body(tensor(datatype="FP64")), 422, "FP32"),
        (body(tensor(shape=[64])), 422, "shape"),
        (body(tensor(shape=[0, 1, 8, 8])), 422, "`shape` should be greater than 0"),
        (body(tensor(data=[3] * 63)), 422, "as many numbers"),
        (body(tensor(data=[3.5] * 64)), 422, "whole ones"),
        (body(tensor(data="abc")), 422, "as many numbers"),
        (body(tensor(parameters={"binary_data_size": 64})), 422, "as many bytes"),
        (body(tensor(shape=[1, 1, 4, 16])), 400, "shape"),
        (body(tensor(datatype="FP32", data=[3.0] * 64)), 400, "divide by 255"),
        (body(tensor(data=None, parameters={"shared_memory_region": "mine"})), 422, "send tensors in the body"),
        (body(outputs=[{"name": "counts", "parameters": {"classification": 3}}]), 422, "take `counts` and sort"),
        (body(parameters={"n": 0}), 422, "n"),
        (body(parameters={"radius": 1}), 422, "radius"),
        (body(outputs=[{"name": "radius"}]), 422, "label"),
        (body(tensor(shape=[2, 1, 8, 8], data=[3] * 128), parameters={"seed": "0" * 32}), 422, "one by one"),
    ],
)
async def test_what_cannot_be_read_is_one_sentence(
    http: httpx2.AsyncClient, asked: Any, status: int, words: str
) -> None:
    answer = await http.post(INFER, json=asked)
    assert answer.status_code == status, answer.text
    problem = answer.json()
    assert words in problem["detail"]
    assert problem["error"] == problem["detail"], "where clients of the protocol look"
    assert answer.headers["content-type"] == "application/json", "others are not read by kserve"


@pytest.mark.parametrize("pack", [gzip.compress, zlib.compress])
@pytest.mark.parametrize("path", [INFER, "/v2/models/digits/versions/base/infer"])
async def test_a_packed_body_is_unpacked(http: httpx2.AsyncClient, pack: Callable[[bytes], bytes], path: str) -> None:
    image = tensor(datatype="FP32", data=None, parameters={"binary_data_size": 256})
    text = json.dumps(body(image)).encode()
    plain = text + np.full(64, 3 / 255, "<f4").tobytes()
    headers = {"Inference-Header-Content-Length": str(len(text)), "Content-Type": "application/octet-stream"}
    coding = {"Content-Encoding": "gzip" if pack is gzip.compress else "deflate"}
    expected = (await http.post(path, content=plain, headers=headers)).json()["outputs"]
    for packed in (pack(plain), pack(plain)[:-1], pack(plain) + b"x", b"", b"hello"):
        answer = await http.post(path, content=packed, headers=headers | coding)
        if packed == pack(plain):
            assert answer.json()["outputs"] == expected
        else:
            assert (answer.status_code, "pack it again" in answer.json()["error"]) == (400, True), answer.text
    answer = await http.post(path, content=plain, headers=headers | {"Content-Encoding": "br"})
    assert (answer.status_code, "Content-Encoding: br" in answer.json()["error"]) == (415, True)


@pytest.mark.slow
async def test_a_small_body_that_unpacks_to_a_large_one_is_refused(http: httpx2.AsyncClient) -> None:
    bomb = gzip.compress(bytes(256 << 20), 1)
    answer = await http.post(INFER, content=bomb, headers={"Content-Encoding": "gzip"})
    assert (answer.status_code, "16,777,216 bytes unpacked" in answer.json()["error"]) == (413, True), answer.text


async def test_a_version_that_answers_is_asked_by_its_digits(http: httpx2.AsyncClient) -> None:
    whole = (await http.get("/v2/models/digits")).json()
    for version in (whole["versions"][0], "0" * 6):
        at = f"/v2/models/digits/versions/{version}"
        assert (await http.get(at)).json() == whole
        assert (await http.get(f"{at}/ready")).json()["ready"]
        answer = (await http.post(f"{at}/infer", json=body())).json()
        assert (answer["model_name"], answer["model_version"]) == ("digits", whole["versions"][0])
        assert answer["outputs"][0]["data"] == [3]
    assert (await http.get("/v2/models/digits/versions/base/ready")).status_code == 200
    for other in ("1", "0" * 5, "1" * 64):
        for answer in (
            await http.get(f"/v2/models/digits/versions/{other}"),
            await http.get(f"/v2/models/digits/versions/{other}/ready"),
            await http.post(f"/v2/models/digits/versions/{other}/infer", json=body()),
        ):
            assert (answer.status_code, "name one of these (000000000000)" in answer.json()["error"]) == (404, True)


@pytest.mark.slow
async def test_a_wrong_length_and_another_model(http: httpx2.AsyncClient) -> None:
    for length in ("-1", "x", "999"):
        answer = await http.post(INFER, content=b"{}", headers={"Inference-Header-Content-Length": length})
        assert answer.status_code == 400
    assert (await http.post("/v2/models/none/infer", json=body())).json()["code"] == "model_not_found"


@pytest.fixture
def address(backend: Any) -> Iterator[str]:
    """The application on a port of its own, since clients of the protocol speak HTTP by themselves."""
    config = uvicorn.Config(create_app(Settings(), backend), port=0, log_config=None)
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run)
    thread.start()
    while not server.started:
        assert thread.is_alive(), "the server did not start"
        time.sleep(0.01)
    yield f"127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}"
    server.should_exit = True
    thread.join()


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("binary", [False, True])
def test_tritonclient(address: str, binary: bool) -> None:
    triton = pytest.importorskip("tritonclient.http")
    client = triton.InferenceServerClient(address)
    assert client.is_server_live()
    assert client.is_server_ready()
    assert client.is_model_ready("digits")
    assert client.get_server_metadata()["name"] == "spacte"
    assert client.get_model_metadata("digits")["outputs"][1] == {
        "name": "counts", "datatype": "INT64", "shape": [-1, 10],
    }  # fmt: skip
    image = triton.InferInput("image", [2, 1, 8, 8], "FP32")
    image.set_data_from_numpy(np.full((2, 1, 8, 8), 3 / 255, np.float32), binary_data=binary)
    outputs = [triton.InferRequestedOutput(name, binary_data=binary) for name in ("label", "counts")]
    for wanted in (outputs, None):
        answer = client.infer("digits", [image], outputs=wanted, parameters={"n": 20})
        assert answer.as_numpy("label").tolist() == [3, 3]
        assert answer.as_numpy("counts").sum() == 40
    with pytest.raises(triton.InferenceServerException, match="no model 'none'"):
        client.infer("none", [image])
    client.close()


@pytest.mark.filterwarnings("ignore")
def test_tritonclient_s_further_options(address: str) -> None:
    triton = pytest.importorskip("tritonclient.http")
    client = triton.InferenceServerClient(address)
    image = triton.InferInput("image", [1, 1, 8, 8], "UINT8")
    image.set_data_from_numpy(np.full((1, 1, 8, 8), 3, np.uint8))
    (version,) = client.get_model_metadata("digits")["versions"]
    assert client.get_model_metadata("digits", version)["name"] == "digits"
    for name in (version, "base"):
        assert client.is_model_ready("digits", name)
    assert not client.is_model_ready("digits", "1")
    for options in (
        {"model_version": version},
        {"request_id": "mine", "headers": {"Authorization": "Bearer spacte_none"}, "query_params": {"a": "b"}},
        {"priority": 1, "timeout": 10**7, "sequence_id": 5, "sequence_start": True},
        {"request_compression_algorithm": "gzip", "response_compression_algorithm": "gzip"},
        {"request_compression_algorithm": "deflate"},
    ):
        answer = client.infer("digits", [image], **options)
        assert (answer.as_numpy("label").tolist(), answer.as_numpy("counts").shape) == ([3], (1, 10))
        assert answer.get_response().get("id") == options.get("request_id")
    assert client.async_infer("digits", [image]).get_result().as_numpy("label").tolist() == [3]
    only = client.infer("digits", [image], outputs=[triton.InferRequestedOutput("label", binary_data=False)])
    assert (only.as_numpy("label").tolist(), only.as_numpy("counts")) == ([3], None)
    for outputs, options, words in (
        (triton.InferRequestedOutput("counts", class_count=3), {}, "take `counts` and sort them"),
        (triton.InferRequestedOutput("label"), {"model_version": "1"}, "name one of these"),
        (triton.InferRequestedOutput("label"), {"parameters": {"nn": 20}}, "did you mean `n`"),
    ):
        with pytest.raises(triton.InferenceServerException, match=words):
            client.infer("digits", [image], outputs=[outputs], **options)
    client.close()


def test_kserve_s_client(address: str) -> None:
    python = os.environ.get("KSERVE_PYTHON")
    if not python:
        pytest.skip("kserve cannot be installed beside our pins: name a Python that has it in KSERVE_PYTHON")
    script = Path(__file__).parents[2] / "kserve_calls.py"
    done = subprocess.run([python, str(script), f"http://{address}"], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    asked = {name: found.pop(name) for name in ("live", "ready", "model ready", "no model ready")}
    assert asked == {"live": True, "ready": True, "model ready": True, "no model ready": False}
    counts = [0, 0, 0, 1000, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1000, 0, 0, 0, 0]
    whole = ["mine", {"label": ["int64", [2], [3, 5]], "counts": ["int64", [2, 10], counts]}]
    for name in ("binary", "json", "float", "all binary", "version"):
        assert found[name] == whole, name
    few = [value // 50 for value in counts]
    assert found["outputs"] == ["mine", {"label": whole[1]["label"], "counts": ["int64", [2, 10], few]}]
    assert found["dictionary"][1]["label"] == ["int64", [1], [3]]
    assert found["another model"].startswith("There is no model 'none'; choose one of those served (digits).")
    assert found["another output"].startswith("`name` should be 'label' or 'counts'.")


BASE = "/v2/models/digits/versions/base"


def rows(**changes: Any) -> dict[str, Any]:
    return tensor(**{"datatype": "FP32", "data": [i / 8 - 3 for i in range(64)], **changes})


async def test_the_base_classifier_is_asked_without_noise(http: httpx2.AsyncClient) -> None:
    told = (await http.get(BASE)).json()
    assert told["inputs"] == [{"name": "image", "datatype": "FP32", "shape": [-1, 1, 8, 8]}]
    assert told["outputs"] == [{"name": "logits", "datatype": "FP32", "shape": [-1, 10]}]
    answer = (await http.post(f"{BASE}/infer", json=body(rows(), id="mine"))).json()
    assert (answer["id"], answer["model_name"], [answer["model_version"]]) == ("mine", "digits", told["versions"])
    assert answer["outputs"] == [
        {"name": "logits", "datatype": "FP32", "shape": [1, 10], "data": [i / 4 - 6 for i in range(10)]},
    ]  # fmt: skip


async def test_the_base_classifier_is_the_version_that_the_request_s_id_gets(
    http: httpx2.AsyncClient, backend: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[str | None] = []
    plain = backend.logits

    @contextlib.contextmanager
    def pinned(name: str | None, request_id: str) -> Iterator[str]:
        yield f"{name}@{request_id}"

    async def logits(rows: Any, model: str | None) -> Any:
        asked.append(model)
        return await plain(rows, model)

    monkeypatch.setattr(backend, "pinned", pinned)
    monkeypatch.setattr(backend, "logits", logits)
    headers = {"X-Request-ID": "mine-0123456789"}
    answer = await http.post(f"{BASE}/infer", json=body(rows()), headers=headers)
    assert (answer.status_code, answer.json()["model_name"]) == (200, "digits")
    assert asked == ["digits@mine-0123456789"]


@pytest.mark.parametrize(
    ("asked", "status", "words"),
    [
        (body(tensor()), 422, "FP32"),
        (body(rows(shape=[1, 8, 8])), 422, "shape"),
        (body(rows(data=[1.0] * 63)), 422, "as many numbers"),
        (body(rows(data=[1e39] * 64)), 422, "finite"),
        (body(rows(), outputs=[{"name": "label"}]), 422, "logits"),
        (body(rows(shape=[33, 1, 8, 8], data=[1.0] * 33 * 64)), 422, "at most 32 rows"),
    ],
)
async def test_rows_that_cannot_be_read(http: httpx2.AsyncClient, asked: Any, status: int, words: str) -> None:
    answer = await http.post(f"{BASE}/infer", json=asked)
    assert (answer.status_code, words in answer.text) == (status, True), answer.text


@pytest.mark.filterwarnings("ignore")
def test_tritonclient_asks_the_base_classifier(address: str) -> None:
    triton = pytest.importorskip("tritonclient.http")
    client = triton.InferenceServerClient(address)
    values = np.random.default_rng(0).normal(size=(3, 1, 8, 8)).astype(np.float32)
    image = triton.InferInput("image", list(values.shape), "FP32")
    image.set_data_from_numpy(values)
    answer = client.infer("digits", [image], model_version="base")
    assert np.array_equal(answer.as_numpy("logits"), values.reshape(3, -1)[:, :10] * 2)
    client.close()
