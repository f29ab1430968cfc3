"""Promise: `POST /v1/sets` and `POST /v1/brackets` answer as the SDK reads them, and say what is missing."""

from collections.abc import AsyncIterator, Callable
from pathlib import Path

import httpx2
import pytest
from typer.testing import CliRunner

from spacte_client.types import Bracket, Certificate, PredictionSet
from spacte_service import Settings, create_app
from spacte_workers.calibrate import calibrate_app
from spacte_workers.certification.verify import check
from spacte_workers.votes import votes_of

pytestmark = pytest.mark.slow

CALIBRATE = ["--data", "digits", "--images", "100", "--noises", "20", "--precision", "fp32"]


@pytest.fixture
async def real(tmp_path: Path, make_checkpoint: Callable[..., str]) -> AsyncIterator[httpx2.AsyncClient]:
    """The application over a real sampler in this process."""
    make_checkpoint(tmp_path / "digits")
    app = create_app(Settings(models=tmp_path, in_process=True, precision="fp32", samplers=1))
    async with app.router.lifespan_context(app):
        transport = httpx2.ASGITransport(app=app)
        async with httpx2.AsyncClient(transport=transport, base_url="http://testserver") as http:
            yield http


async def test_a_set_once_the_model_is_calibrated(real: httpx2.AsyncClient, digit: bytes, tmp_path: Path) -> None:
    form = {"files": {"image": ("d.png", digit)}, "data": {"params": '{"radius": 0.1, "alpha": 0.2}'}}
    refused = await real.post("/v1/sets", **form)
    assert (refused.status_code, refused.json()["code"]) == (409, "not_calibrated")
    assert CliRunner().invoke(calibrate_app, [str(tmp_path / "digits"), *CALIBRATE]).exit_code == 0
    answer = await real.post("/v1/sets", **form)
    found = PredictionSet.model_validate(answer.json())
    assert (found.alpha, found.radius, found.method, found.samples) == (0.2, 0.1, "rcp1", 1)
    assert found.label_names == [str(label) for label in found.labels]


@pytest.mark.parametrize(
    ("params", "pointer"),
    [("{}", "/radius"), ('{"radius": -1}', "/radius"), ('{"radius": 1, "method": "x"}', "/method")],
)
async def test_a_bad_option_is_named(real: httpx2.AsyncClient, digit: bytes, params: str, pointer: str) -> None:
    form = {"files": {"image": ("d.png", digit)}, "data": {"params": params}}
    refused = await real.post("/v1/sets", **form)
    assert refused.status_code == 422
    assert [error["pointer"] for error in refused.json()["errors"]] == [pointer]


async def test_a_bracket(real: httpx2.AsyncClient, digit: bytes) -> None:
    form = {"files": {"image": ("d.png", digit)}, "data": {"params": '{"n": 300, "n_upper": 300}'}}
    answer = await real.post("/v1/brackets", **form)
    assert answer.status_code == 200, answer.text
    found = Bracket.model_validate(answer.json())
    assert found.lower == found.certificate.radius
    assert found.upper is None or found.upper > found.lower
    assert (found.upper is None) == (found.adversarial is None)


async def test_float32_is_certified_by_other_votes(real: httpx2.AsyncClient, digit: bytes) -> None:
    form = {"files": {"image": ("d.png", digit)}, "data": {"params": '{"n": 400, "certify": "fp32"}'}}
    for _ in range(2):  # the plain network is loaded by the first
        answer = await real.post("/v1/certify", **form)
        assert answer.status_code == 200, answer.text
        found = Certificate.model_validate(answer.json())
        assert found.carried is not None
        assert (found.precision, found.carried.pairs) == ("fp32", 40)
        assert found.versions["kernels"].startswith("plain/")
        assert check(found) == []
        assert votes_of(found) == found.n0 + found.n + 2 * 40


@pytest.mark.parametrize("path", ["certify/stream", "brackets"])
async def test_float32_is_not_certified_where_the_end_is_not_known(
    real: httpx2.AsyncClient, digit: bytes, path: str
) -> None:
    form = {"files": {"image": ("d.png", digit)}, "data": {"params": '{"n": 400, "certify": "fp32"}'}}
    refused = await real.post(f"/v1/{path}", **form)
    assert (refused.status_code, refused.json()["code"]) == (422, "validation_failed")


async def test_noises_of_gradients_count(real: httpx2.AsyncClient, digit: bytes) -> None:
    form = {"files": {"image": ("d.png", digit)}, "data": {"params": '{"n": 300, "n_upper": 300}'}}
    answer = await real.post("/v1/brackets", **form)
    found = Bracket.model_validate(answer.json())
    assert found.certificate.abstained == (found.attack_noises == 0)
    if found.adversarial is not None:
        assert found.attack_noises > found.adversarial.n
