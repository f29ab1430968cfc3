"""Promise: whatever fits the OpenAPI description, or nearly does, is answered as described, never with a 5xx.

schemathesis derives the requests from the description: some that fit it and some that just do not, under a fixed
seed, more than 2,000 in all. Some need a database, so the jobs' one is made in a temporary folder.
"""

import base64
import io
import json
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import schemathesis
from hypothesis import HealthCheck, given, settings
from PIL import Image as Pillow
from schemathesis import GenerationMode
from schemathesis.checks import load_all_checks
from starlette.testclient import TestClient

from spacte_service import Settings, create_app

pytestmark = pytest.mark.long

load_all_checks()
CHECKS = [
    schemathesis.checks.CHECKS.get_one(name)
    for name in (
        "not_a_server_error",
        "status_code_conformance",
        "content_type_conformance",
        "response_headers_conformance",
        "response_schema_conformance",
    )
]
"""Not checked: that every request of the right form is accepted. Most bytes are no image, whatever their form."""

OPENAPI = json.loads((Path(__file__).parents[3] / "service" / "openapi.json").read_text())
CASES = [
    (method.upper(), path, mode)
    for path, operations in OPENAPI["paths"].items()
    for method, operation in operations.items()
    for mode in GenerationMode
    # A request without parameters and body cannot be made to not fit.
    if mode is GenerationMode.POSITIVE or {"parameters", "requestBody"} & operation.keys()
]
EXAMPLES = 60
LEAST = 1_500

tried: Counter[int] = Counter()
"""Requests by the status of their answers."""


@pytest.fixture(scope="module")
def session(tmp_path_factory: pytest.TempPathFactory, make_backend: Callable[[], Any]) -> Iterator[TestClient]:
    """A client of the application, with its lifespan."""
    app = create_app(Settings(data_dir=tmp_path_factory.mktemp("data")), make_backend())
    with TestClient(app) as client:
        yield client


@pytest.fixture(scope="module")
def description(session: TestClient) -> Any:
    return schemathesis.openapi.from_asgi("/openapi.json", session.app)


@pytest.mark.slow
@pytest.mark.parametrize(("method", "path", "mode"), CASES, ids=[f"{m} {p} {g.value}" for m, p, g in CASES])
def test_every_operation_keeps_to_its_description(
    session: TestClient, description: Any, method: str, path: str, mode: GenerationMode
) -> None:
    strategy = description[path][method].as_strategy(generation_mode=mode)

    @settings(
        max_examples=EXAMPLES, derandomize=True, deadline=None, database=None, suppress_health_check=list(HealthCheck)
    )
    @given(case=strategy)
    def keeps(case: Any) -> None:
        answer = case.call_and_validate(session=session, checks=CHECKS)
        tried[answer.status_code] += 1
        if answer.status_code >= 400 and "problem+json" in answer.headers["content-type"][0]:
            assert answer.json()["instance"] == answer.headers["x-request-id"][0]

    keeps()


@pytest.mark.slow
def test_after_all_of_that_an_honest_request_succeeds(session: TestClient) -> None:
    file = io.BytesIO()
    Pillow.fromarray(np.full((8, 8), 7, np.uint8)).save(file, "PNG")
    body = {"image": {"type": "base64", "data": base64.b64encode(file.getvalue()).decode()}}
    assert session.post("/v1/certify", json=body).status_code == 200
    assert not tried or tried.total() > LEAST, tried
    assert session.app.state.gateway.drain.in_flight == 0
    assert session.app.state.gateway.admission.permits.held == 0
