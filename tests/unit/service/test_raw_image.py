"""Promise: an image as the body itself is answered like one in JSON or in a form, with its options in the query."""

import json
from typing import Any

import httpx2
import pytest

PNG = {"Content-Type": "image/png"}


@pytest.mark.parametrize("path", ["certify", "predict", "brackets", "certify/stream"])
async def test_an_image_is_a_body(http: httpx2.AsyncClient, backend: Any, digit: bytes, path: str) -> None:
    options = {"n": 20, "model": "digits"}
    answer = await http.post(f"/v1/{path}", content=digit, headers=PNG, params={"params": json.dumps(options)})
    assert answer.status_code == 200, answer.text
    assert (backend.params[0].n, backend.params[0].model) == (20, "digits")


async def test_without_options(http: httpx2.AsyncClient, digit: bytes) -> None:
    raw = (await http.post("/v1/predict", content=digit, headers=PNG)).json()
    form = (await http.post("/v1/predict", files={"image": ("a.png", digit)})).json()
    assert (raw["label"], raw["n"]) == (form["label"], form["n"])


@pytest.mark.parametrize(
    ("query", "status", "pointer"),
    [
        ({"params": '{"n": 0}'}, 422, "/n"),
        ({"params": '{"m": 10}'}, 422, "/m"),
        ({"n": "10"}, 422, "/n"),
        ({"params": "{"}, 400, None),
    ],
)
async def test_wrong_options_are_named(
    http: httpx2.AsyncClient, digit: bytes, query: dict[str, str], status: int, pointer: str | None
) -> None:
    answer = await http.post("/v1/certify", content=digit, headers=PNG, params=query)
    assert answer.status_code == status, answer.text
    assert [each["pointer"] for each in answer.json().get("errors", [])] == ([pointer] if pointer else [])


async def test_what_is_no_image_is_a_400(http: httpx2.AsyncClient) -> None:
    for content in (b"", b"no picture"):
        answer = await http.post("/v1/certify", content=content, headers=PNG)
        assert (answer.status_code, answer.json()["code"]) == (400, "bad_image")


async def test_jobs_take_no_image(http: httpx2.AsyncClient, digit: bytes) -> None:
    assert (await http.post("/v1/jobs", content=digit, headers=PNG)).status_code == 415


async def test_operations_have_short_names_each_its_own(http: httpx2.AsyncClient) -> None:
    """Generated clients call their methods so."""
    paths = (await http.get("/openapi.json")).json()["paths"]
    names = [operation["operationId"] for operations in paths.values() for operation in operations.values()]
    assert {"certify", "certify_stream", "predict", "predict_set", "bracket", "create_job", "list_models"} <= set(names)
    assert len(set(names)) == len(names)
