"""Promise: clients of the Open Inference Protocol ask for smoothed predictions as they ask any other server."""

import contextlib
import json
import threading
import time
from collections.abc import Iterator
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
        (body(tensor(data=[3] * 63)), 422, "as many numbers"),
        (body(tensor(data=[3.5] * 64)), 422, "whole ones"),
        (body(tensor(data="abc")), 422, "as many numbers"),
        (body(tensor(parameters={"binary_data_size": 64})), 422, "as many bytes"),
        (body(tensor(shape=[1, 1, 4, 16])), 400, "shape"),
        (body(tensor(datatype="FP32", data=[3.0] * 64)), 400, "divide by 255"),
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
