"""Promise: health is told before the gateway's libraries are imported, in the form that the gateway itself has."""

import subprocess
import sys

import httpx2
import pytest
from fastapi import FastAPI

from spacte_client.types import Health, Problem
from spacte_service.opening import Opening

HEAVY = ("fastapi", "starlette", "numpy", "scipy", "PIL", "prometheus_client", "opentelemetry", "sqlalchemy", "torch")


def client(app: Opening) -> httpx2.AsyncClient:
    return httpx2.AsyncClient(transport=httpx2.ASGITransport(app), base_url="http://gateway")


async def test_health_and_a_problem_until_the_gateway_is_there(app: FastAPI) -> None:
    opening = Opening()
    async with client(opening) as http:
        live = await http.get("/livez")
        assert (live.status_code, Health.model_validate_json(live.content).status) == (200, "ok")
        assert "Retry-After" not in live.headers
        ready = await http.get("/readyz")
        assert (ready.status_code, Health.model_validate_json(ready.content).status) == (503, "unavailable")
        answer = await http.post("/v1/certify")
        problem = Problem.model_validate_json(answer.content)
        assert (answer.status_code, problem.status, problem.code) == (503, 503, "model_loading")
        assert answer.headers["Content-Type"] == "application/problem+json"
        assert int(answer.headers["Retry-After"]) == problem.retry_after_s
        opening.app = app
        assert (await http.get("/v1/models")).json()["data"]


async def test_its_answer_is_the_problem_of_a_model_that_is_loading() -> None:
    from spacte_service.problems import PROBLEMS

    async with client(Opening()) as http:
        answer = (await http.get("/v1/models")).json()
    assert (answer["status"], answer["title"]) == PROBLEMS[answer["code"]]


@pytest.mark.slow
def test_what_opens_the_port_imports_nothing_heavy() -> None:
    code = (
        "import sys, spacte_client.cli, spacte_service.cli.serve_options, spacte_service.server;"
        f"print([name for name in {HEAVY} if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"
