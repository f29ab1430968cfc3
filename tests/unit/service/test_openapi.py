"""Promise: the committed description is what the application says of itself, and it is whole."""

import json
import re
from pathlib import Path
from typing import Any

import pytest
from fastapi import FastAPI

from spacte_service.openapi import main

COMMITTED = Path(__file__).parents[3] / "service" / "openapi.json"


@pytest.fixture
def schema(app: FastAPI) -> dict[str, Any]:
    return app.openapi()


def test_the_committed_description_is_current(schema: dict[str, Any]) -> None:
    committed = json.loads(COMMITTED.read_text())
    assert committed == json.loads(json.dumps(schema)), (
        "write it anew: python -m spacte_service.openapi > service/openapi.json"
    )


def test_every_reference_leads_somewhere(schema: dict[str, Any]) -> None:
    names = set(re.findall(r"#/components/schemas/(\w+)", json.dumps(schema)))
    assert names <= set(schema["components"]["schemas"])
    assert {"CertifyRequest", "Certificate", "ProgressEvent", "Problem"} <= set(schema["components"]["schemas"])


def test_every_error_is_a_problem(schema: dict[str, Any]) -> None:
    for path, operations in schema["paths"].items():
        for operation in operations.values():
            for status, response in operation["responses"].items():
                if status >= "400" and not (path.endswith(("/ready", "/readyz")) and status == "503"):
                    kind = "application/json" if path.startswith("/v2/") else "application/problem+json"
                    assert list(response["content"]) == [kind], (path, status)


def test_every_operation_and_field_is_described(schema: dict[str, Any]) -> None:
    for path, operations in schema["paths"].items():
        for operation in operations.values():
            assert operation.get("description"), path
    for name, model in schema["components"]["schemas"].items():
        for field, described in model.get("properties", {}).items():
            assert described.get("description"), f"{name}.{field}"


@pytest.mark.slow
def test_the_command_that_writes_it_writes_it(capsys: pytest.CaptureFixture[str]) -> None:
    main()
    assert capsys.readouterr().out == COMMITTED.read_text()
