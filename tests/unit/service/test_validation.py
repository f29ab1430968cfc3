"""Promise: what is wrong with a field is said with its name and an example of the right form."""

import gzip
import json

import httpx2
import pytest
from pydantic import BaseModel

from spacte_client.types import BracketRequest, CertifyRequest, PredictBatchRequest, PredictRequest, SetRequest
from spacte_service import Settings
from spacte_service.validation import EXAMPLES
from spacte_workers.errors import ModelNotNamedError, ModelNotReadyError

REQUESTS: tuple[type[BaseModel], ...] = (
    CertifyRequest,
    PredictRequest,
    PredictBatchRequest,
    SetRequest,
    BracketRequest,
)


@pytest.mark.parametrize(
    ("body", "words"),
    [
        ({"image": "cat.png"}, '`image` should be a JSON object; for example {"type": "base64"'),
        ({}, "`image` is required; for example {"),
        ({"image": {"type": "base64"}}, "`data` is required; for example "),
        ({"image": {"type": "base64", "data": "iVBO"}, "n": "many"}, "; for example 10000."),
        ([], 'The body should be a JSON object; for example {"image": {'),
    ],
)
async def test_a_sentence_shows_the_right_form(http: httpx2.AsyncClient, body: object, words: str) -> None:
    answer = await http.post("/v1/certify", json=body)
    assert answer.status_code == 422
    assert words in answer.json()["errors"][0]["detail"]


@pytest.mark.parametrize("request_type", REQUESTS)
def test_every_example_is_of_the_right_form(request_type: type[BaseModel]) -> None:
    """Each field of a request has one, and takes it."""
    fields = set(request_type.model_fields)
    assert fields <= set(EXAMPLES)
    refused = {"certify"} if request_type is BracketRequest else set[str]()  # it is about what votes
    for name in fields - {"image", "images"} - refused:
        value = json.loads(EXAMPLES[name])
        request_type.__pydantic_validator__.validate_assignment(request_type.model_construct(), name, value)


async def test_a_broken_limit_is_this_gateways(make_http, b64_digit) -> None:
    answer = await make_http(Settings(n_max=500)).post("/v1/certify", json={"image": b64_digit, "n": 501})
    assert answer.status_code == 422
    assert "at most 500 at this gateway" in answer.json()["detail"]


@pytest.mark.parametrize("coding", ["gzip", "deflate", "br"])
async def test_a_packed_body_is_refused_with_the_remedy(http: httpx2.AsyncClient, coding: str) -> None:
    body = gzip.compress(b'{"image": {}}')
    headers = {"Content-Type": "application/json", "Content-Encoding": coding}
    answer = await http.post("/v1/certify", content=body, headers=headers)
    assert (answer.status_code, answer.json()["code"]) == (415, "unsupported_media_type")
    assert f"without `Content-Encoding: {coding}`" in answer.json()["detail"]


async def test_where_several_models_are_served_one_has_to_be_named(
    http: httpx2.AsyncClient, backend, b64_digit
) -> None:
    backend.fault = ModelNotNamedError("Several models are served: name one of a, b.")
    answer = await http.post("/v1/certify", json={"image": b64_digit})
    assert (answer.status_code, answer.json()["code"]) == (400, "bad_request")
    assert "name one of a, b" in answer.json()["detail"]


async def test_a_model_that_failed_is_not_unknown(http: httpx2.AsyncClient, backend, b64_digit) -> None:
    backend.fault = ModelNotReadyError("Model digits is not served: the file is cut off.", "failed")
    answer = await http.post("/v1/certify", json={"image": b64_digit, "model": "digits"})
    assert (answer.status_code, answer.json()["code"]) == (409, "model_failed")
    assert "retry-after" not in answer.headers


@pytest.fixture
def b64_digit(digit: bytes) -> dict[str, str]:
    """A digit, as a request has it."""
    import base64

    return {"type": "base64", "data": base64.b64encode(digit).decode()}
