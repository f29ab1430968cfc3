"""Promise: predict and certify take JSON and forms alike, within limits, and name every request."""

import base64
from collections.abc import Callable
from typing import Any

import httpx2
import pytest
from fastapi import FastAPI

from spacte_client.types import Certificate, Prediction, PredictionList
from spacte_service import Settings
from spacte_workers.errors import ModelNotReadyError

MakeHttp = Callable[[Settings], httpx2.AsyncClient]


def b64(data: bytes) -> dict[str, str]:
    return {"type": "base64", "data": base64.b64encode(data).decode()}


async def test_json_and_form_ask_the_same(http: httpx2.AsyncClient, backend, digit: bytes) -> None:
    options = {"model": "digits", "n0": 50, "n": 500, "alpha": 0.01, "bound": "two_class", "noise": "float"}
    import json

    by_json = await http.post("/v1/certify", json={"image": b64(digit)} | options)
    by_form = await http.post("/v1/certify", files={"image": ("d.png", digit)}, data={"params": json.dumps(options)})
    first, second = (Certificate.model_validate_json(answer.content) for answer in (by_json, by_form))
    assert backend.params[0] == backend.params[1]
    assert first.image_sha256 == second.image_sha256
    assert first.id != second.id
    assert (first.n0, first.n_max, first.alpha, first.bound, first.noise) == (50, 500, 0.01, "two_class", "float")


async def test_params_may_be_a_file_part_too(http: httpx2.AsyncClient, digit: bytes) -> None:
    form = {"image": ("d.png", digit), "params": ("params.json", b'{"n": 10}', "application/json")}
    assert (await http.post("/v1/certify", files=form)).json()["n"] == 10


async def test_left_out_options_have_the_documented_defaults(http: httpx2.AsyncClient, backend, digit: bytes) -> None:
    await http.post("/v1/certify", json={"image": b64(digit)})
    await http.post("/v1/predict", json={"image": b64(digit)})
    certify, predict = backend.params
    assert (certify.model, certify.n0, certify.n, certify.alpha, certify.bound) == (None, 100, 10_000, 0.001, "auto")
    assert (predict.n, predict.noise, predict.seed) == (1_000, "grid", None)


async def test_a_whole_number_may_be_written_with_an_exponent(http: httpx2.AsyncClient, digit: bytes) -> None:
    body = b'{"n": 1e3, "n0": 20.0, "image": {"type": "base64", "data": "%s"}}' % base64.b64encode(digit)
    answer = await http.post("/v1/certify", content=body, headers={"Content-Type": "application/json"})
    assert (answer.json()["n"], answer.json()["n0"]) == (1000, 20)


async def test_a_json_suffix_is_json(http: httpx2.AsyncClient, digit: bytes) -> None:
    import json

    body = json.dumps({"image": b64(digit)})
    answer = await http.post(
        "/v1/certify", content=body, headers={"Content-Type": "application/vnd.spacte+json; charset=utf-8"}
    )
    assert answer.status_code == 200


async def test_a_large_body_is_parsed_in_a_thread(http: httpx2.AsyncClient) -> None:
    import io

    import numpy as np
    from PIL import Image as Pillow

    file = io.BytesIO()
    noise = np.random.RandomState(0).randint(0, 256, (512, 512), dtype=np.uint8)
    Pillow.fromarray(noise).save(file, "PNG")
    assert len(file.getvalue()) > 100_000
    answer = await http.post("/v1/certify", json={"image": b64(file.getvalue()), "resize": True})
    assert answer.status_code == 200


@pytest.mark.slow
async def test_several_images_give_several_predictions_in_order(http: httpx2.AsyncClient, png) -> None:
    images = [png(value) for value in (3, 1, 4)]
    by_json = await http.post("/v1/predict", json={"images": [b64(image) for image in images], "n": 10})
    by_form = await http.post("/v1/predict", files=[("image", (f"{i}.png", d)) for i, d in enumerate(images)])
    for answer in (by_json, by_form):
        predictions = PredictionList.model_validate_json(answer.content).data
        assert [prediction.label for prediction in predictions] == [3, 1, 4]
        assert len({prediction.id for prediction in predictions}) == 3


async def test_one_image_in_a_list_gives_a_list(http: httpx2.AsyncClient, digit: bytes) -> None:
    answer = await http.post("/v1/predict", json={"images": [b64(digit)]})
    assert len(answer.json()["data"]) == 1
    answer = await http.post("/v1/predict", json={"image": b64(digit)})
    assert Prediction.model_validate_json(answer.content).label == 7


async def test_one_bad_image_of_a_batch_fails_it_and_is_pointed_out(
    http: httpx2.AsyncClient, backend, digit: bytes
) -> None:
    answer = await http.post("/v1/predict", json={"images": [b64(digit), b64(b"no image"), b64(digit)]})
    assert answer.status_code == 400
    assert [error["pointer"] for error in answer.json()["errors"]] == ["/images/1"]
    assert backend.running == 0


async def test_a_seed_needs_the_operators_leave(make_http: MakeHttp, backend, digit: bytes) -> None:
    seed = "0123456789abcdef" * 2
    body = {"image": b64(digit), "seed": seed}
    refused = await make_http(Settings()).post("/v1/certify", json=body)
    assert refused.status_code == 422
    assert "SPACTE_ALLOW_CLIENT_SEED" in refused.json()["detail"]
    open_http = make_http(Settings(allow_client_seed=True))
    assert (await open_http.post("/v1/certify", json=body)).json()["seed"] == seed
    batch = await open_http.post("/v1/predict", json={"images": [b64(digit)] * 2, "seed": seed})
    assert batch.status_code == 422
    assert backend.params[-1].seed == seed


async def test_limits_are_the_settings_and_are_shown(make_http: MakeHttp, digit: bytes) -> None:
    http = make_http(Settings(n_max=100, n0_max=10, deadline_ms_max=60_000))
    limits = (await http.get("/v1/info")).json()["limits"]
    assert (limits["n_max"], limits["n0_max"], limits["deadline_ms_max"]) == (100, 10, 60_000)
    at_limit = {"image": b64(digit), "n": 100, "n0": 10, "deadline_ms": 60_000}
    assert (await http.post("/v1/certify", json=at_limit)).status_code == 200
    for name in ("n", "n0", "deadline_ms"):
        beyond = await http.post("/v1/certify", json=at_limit | {name: at_limit[name] + 1})
        assert beyond.status_code == 422
        assert [error["pointer"] for error in beyond.json()["errors"]] == [f"/{name}"]


async def test_the_rate_of_models_and_the_data_sets_of_jobs_are_shown(make_http: MakeHttp, backend) -> None:
    http = make_http(Settings(datasets="cifar10=parquet:/data/cifar10"))
    assert (await http.get("/v1/info")).json()["datasets"] == ["cifar10", "digits"]
    assert (await http.get("/v1/models/digits")).json()["samples_per_second"] is None
    backend.noises_a_second = 2_500.0
    assert (await http.get("/v1/models")).json()["data"][0]["samples_per_second"] == 2_500.0


@pytest.mark.parametrize("given", ["abc-123", "req_4f.b:9", "x" * 128])
async def test_a_request_id_is_accepted_and_echoed(http: httpx2.AsyncClient, given: str) -> None:
    answer = await http.get("/v1/models/none", headers={"X-Request-ID": given})
    assert answer.headers["x-request-id"] == given
    assert answer.json()["instance"] == given


@pytest.mark.parametrize("given", ["", "two words", "x" * 129, "line\tbreak", "ä"])
async def test_a_request_id_that_could_forge_a_log_line_is_replaced(http: httpx2.AsyncClient, given: str) -> None:
    answer = await http.get("/livez", headers={"X-Request-ID": given.encode("latin-1")})
    assert answer.headers["x-request-id"].startswith("req_")


async def test_the_deadline_counts_from_arrival_and_is_shown_as_asked(
    http: httpx2.AsyncClient, backend, digit: bytes
) -> None:
    answer = await http.post("/v1/certify", json={"image": b64(digit), "deadline_ms": 5000})
    assert answer.json()["deadline_ms"] == 5000
    assert 0 < backend.params[0].deadline_ms <= 5000


async def test_a_deadline_that_passes_in_the_queue_is_a_504(make_http: MakeHttp, backend, digit: bytes, until) -> None:
    import asyncio

    http = make_http(Settings(max_running=1))
    backend.gate.clear()
    first = asyncio.create_task(http.post("/v1/certify", json={"image": b64(digit)}))
    await until(lambda: backend.running == 1)
    late = await http.post("/v1/certify", json={"image": b64(digit), "deadline_ms": 30})
    assert late.status_code == 504
    assert late.json()["code"] == "deadline_exceeded"
    backend.gate.set()
    assert (await first).status_code == 200


async def test_what_breaks_inside_is_a_500_that_tells_nothing(http: httpx2.AsyncClient, backend, digit: bytes) -> None:
    backend.fault = ZeroDivisionError("secret detail")
    answer = await http.post("/v1/certify", json={"image": b64(digit)})
    assert answer.status_code == 500
    assert answer.headers["content-type"] == "application/problem+json"
    assert answer.json()["code"] == "internal"
    assert "secret" not in answer.text
    backend.fault = None
    assert (await http.post("/v1/certify", json={"image": b64(digit)})).status_code == 200


async def test_no_sampler_is_a_503_with_retry_after(http: httpx2.AsyncClient, backend, digit: bytes) -> None:
    backend.samplers = 0
    answer = await http.post("/v1/certify", json={"image": b64(digit)})
    assert answer.status_code == 503
    assert answer.json()["code"] == "no_workers"
    assert int(answer.headers["retry-after"]) == answer.json()["retry_after_s"]
    ready = await http.get("/readyz")
    assert ready.status_code == 503
    assert "No sampler" in ready.json()["checks"]["samplers"]
    assert (await http.get("/livez")).status_code == 200


async def test_every_answer_carries_the_security_headers(http: httpx2.AsyncClient) -> None:
    for path in ("/livez", "/nowhere", "/v1/models"):
        headers = (await http.get(path)).headers
        assert headers["x-content-type-options"] == "nosniff"
        assert headers["x-frame-options"] == "DENY"
        assert "default-src 'none'" in headers["content-security-policy"]
        assert "server" not in headers
        assert "access-control-allow-origin" not in headers


async def test_a_deadline_that_passes_while_the_body_comes_is_a_504(
    http: httpx2.AsyncClient, backend, digit: bytes
) -> None:
    import asyncio
    import json

    body = json.dumps({"image": b64(digit), "deadline_ms": 5}).encode()

    async def slowly() -> Any:
        yield body[:20]
        await asyncio.sleep(0.02)
        yield body[20:]

    answer = await http.post("/v1/certify", content=slowly(), headers={"Content-Type": "application/json"})
    assert (answer.status_code, answer.json()["code"]) == (504, "deadline_exceeded")
    assert backend.begun == []


async def test_a_model_that_is_loading_is_worth_waiting_for_and_one_that_is_not_loaded_is_not(
    http: httpx2.AsyncClient, backend, digit: bytes
) -> None:
    for state, status, code in (("loading", 503, "model_loading"), ("unloaded", 404, "model_not_found")):
        backend.fault = ModelNotReadyError("Model digits is not ready: wait.", state)
        answer = await http.post("/v1/certify", json={"image": b64(digit)})
        assert (answer.status_code, answer.json()["code"]) == (status, code)
        assert ("retry-after" in answer.headers) == (status == 503)


async def test_over_https_browsers_are_told_to_stay_with_it(app: FastAPI) -> None:
    transport = httpx2.ASGITransport(app=app)
    for scheme, expected in (("https", "max-age=31536000"), ("http", None)):
        async with httpx2.AsyncClient(transport=transport, base_url=f"{scheme}://testserver") as http:
            assert (await http.get("/livez")).headers.get("strict-transport-security") == expected


@pytest.mark.parametrize("path", ["/", "/jobs", "/docs"])
async def test_the_pages_need_nothing_from_elsewhere(http: httpx2.AsyncClient, path: str) -> None:
    answer = await http.get(path)
    assert answer.status_code == 200
    assert answer.headers["content-type"].startswith("text/html")
    assert answer.headers["x-frame-options"] == "DENY"
    assert "default-src 'none'" in answer.headers["content-security-policy"]
    assert "unsafe" not in answer.headers["content-security-policy"]
