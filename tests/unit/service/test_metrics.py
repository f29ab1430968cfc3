"""Promise: what an operator watches is right: metrics by the names of the API, health, models and their changes."""

import asyncio
import base64
from typing import Any

import httpx2
from fastapi import FastAPI
from prometheus_client.parser import text_string_to_metric_families


async def metrics_of(http: httpx2.AsyncClient) -> dict[tuple[str, ...], float]:
    """Every sample by its name and label values, which come in the order of the labels' names."""
    text = (await http.get("/metrics")).text
    return {
        (sample.name, *sample.labels.values()): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


def body(image: bytes, **options: Any) -> dict[str, Any]:
    return {"image": {"type": "base64", "data": base64.b64encode(image).decode()}} | options


async def test_requests_and_certificates_are_counted(http: httpx2.AsyncClient, digit: bytes) -> None:
    await http.post("/v1/certify", json=body(digit, n=1000))
    await http.post("/v1/certify", json=body(digit, n=0))
    await http.get("/v1/models/digits")
    await http.get("/no/such/page")
    await http.get("/nor/this/one")
    counted = await metrics_of(http)
    assert counted["spacte_http_requests_total", "POST", "/v1/certify", "200"] == 1
    assert counted["spacte_http_requests_total", "POST", "/v1/certify", "422"] == 1
    assert counted["spacte_http_requests_total", "GET", "/v1/models/{name}", "200"] == 1
    assert counted["spacte_http_requests_total", "GET", "unmatched", "404"] == 2
    assert counted["spacte_http_request_duration_seconds_count", "/v1/certify"] == 2
    assert counted["spacte_certify_duration_seconds_count", "digits"] == 1
    assert counted["spacte_certify_samples_sum", "digits"] == 1100
    assert counted["spacte_certificates_total", "digits", "n_max"] == 1
    assert counted["spacte_samplers", "ready"] == 1
    assert counted["spacte_build_info", "0.1.0"] == 1


async def test_what_the_workers_tell_is_counted_by_model_name(app: FastAPI, http: httpx2.AsyncClient) -> None:
    observer = app.state.gateway.metrics
    observer.drawn("digits@abc", 1000, 0.25)
    observer.drawn("digits@def", 500, 0.5)
    observer.wasted("digits@abc", 100, "past_stop")
    observer.retried(3, "lost")
    counted = await metrics_of(http)
    assert counted["spacte_samples_drawn_total", "digits"] == 1500
    assert counted["spacte_shard_duration_seconds_sum", "digits"] == 0.75
    assert counted["spacte_samples_wasted_total", "digits", "past_stop"] == 100
    assert counted["spacte_shard_retries_total", "lost"] == 3


async def test_the_queue_is_seen_as_it_is(make_http: Any, backend: Any, digit: bytes, until: Any) -> None:
    from spacte_service import Settings

    http = make_http(Settings(max_running=2, max_concurrent_requests=32))
    backend.gate.clear()
    requests = [asyncio.create_task(http.post("/v1/certify", json=body(digit))) for _ in range(5)]
    admission = http._transport.app.state.gateway.admission
    await until(lambda: (admission.queue.running, admission.waiting) == (2, 3))
    counted = await metrics_of(http)
    assert counted["spacte_inflight_images", "interactive"] == 2
    assert counted["spacte_queue_depth", "interactive"] == 3
    backend.gate.set()
    assert {answer.status_code for answer in await asyncio.gather(*requests)} == {200}
    counted = await metrics_of(http)
    assert counted["spacte_queue_depth", "interactive"] == 0


async def test_labels_stay_few_whatever_is_asked(http: httpx2.AsyncClient, digit: bytes) -> None:
    for i in range(50):
        await http.get(f"/v1/models/name{i}")
        await http.get(f"/path{i}")
        await http.post("/v1/certify", json=body(digit, model=f"name{i}"))
    counted = await metrics_of(http)
    assert not any("name1" in label or "path1" in label for key in counted for label in key)


async def test_an_unknown_method_is_one_label(http: httpx2.AsyncClient) -> None:
    for i in range(5):
        await http.request(f"METHOD{i}", "/v1/certify")
    counted = await metrics_of(http)
    assert sum(value for key, value in counted.items() if key[0] == "spacte_http_requests_total") == 5
    assert not any(label.startswith("METHOD") for key in counted for label in key)


async def test_readiness_ends_with_the_drain_and_liveness_does_not(app: FastAPI, http: httpx2.AsyncClient) -> None:
    assert (await http.get("/readyz")).json() == {"status": "ok", "checks": {"samplers": "ok", "draining": "ok"}}
    app.state.gateway.drain.begin()
    answer = await http.get("/readyz")
    assert answer.status_code == 503
    assert answer.json()["status"] == "unavailable"
    assert (await http.get("/livez")).json()["status"] == "ok"
    assert (await http.get("/v2/health/ready")).status_code == 503
    assert (await http.get("/v2/health/live")).json() == {"live": True}


async def test_kserve_metadata(http: httpx2.AsyncClient) -> None:
    metadata = (await http.get("/v2/models/digits")).json()
    assert metadata["inputs"] == [{"name": "image", "datatype": "UINT8", "shape": [-1, 1, 8, 8]}]
    assert [output["shape"] for output in metadata["outputs"]] == [[-1], [-1, 10]]
    assert (await http.get("/v2/models/digits/ready")).json() == {"name": "digits", "ready": True}
    assert (await http.get("/v2/models/none")).json()["code"] == "model_not_found"
    assert (await http.get("/v2/models/none/ready")).status_code == 404


async def test_models_are_loaded_and_unloaded_behind_the_answer(
    http: httpx2.AsyncClient, backend: Any, until: Any, monkeypatch: Any
) -> None:
    monkeypatch.setattr("spacte_service.models.PROMPT_S", 0.01)
    backend.gate.clear()
    answer = await http.post("/v1/models/digits/load")
    assert answer.status_code == 202
    assert answer.json()["name"] == "digits"
    assert backend.loads == []
    backend.gate.set()
    await until(lambda: backend.loads == ["digits"])
    assert (await http.post("/v1/models/digits/unload")).status_code == 202
    assert backend.loads == ["digits", "-digits"]
    for change in ("load", "unload"):
        answer = await http.post(f"/v1/models/none/{change}")
        assert (answer.status_code, answer.json()["code"]) == (404, "model_not_found")


async def test_a_model_that_does_not_load_says_why(http: httpx2.AsyncClient, backend: Any, monkeypatch: Any) -> None:
    from spacte_workers.errors import ModelLoadError

    async def load(name: str, share: float | None, source: str | None) -> None:
        raise ModelLoadError(f"The checkpoint {name} is damaged: train it again.")

    monkeypatch.setattr(backend, "load", load)
    answer = await http.post("/v1/models/digits/load")
    assert answer.status_code == 400
    assert answer.json()["detail"] == "The checkpoint digits is damaged: train it again."


async def test_a_model_s_source_reaches_the_workers(http: httpx2.AsyncClient, backend: Any, monkeypatch: Any) -> None:
    asked: list[Any] = []

    async def load(*arguments: Any) -> None:
        asked.append(arguments)

    monkeypatch.setattr(backend, "load", load)
    source = "s3://bucket/models/digits#sha256=" + 64 * "a"
    answer = await http.post("/v1/models/digits/load", json={"source": source, "traffic": 0.5})
    assert (answer.status_code, asked) == (202, [("digits", 0.5, source)])


async def test_the_workers_start_and_stop_with_the_lifespan(app: FastAPI, backend: Any, monkeypatch: Any) -> None:
    happened: list[str] = []

    async def start() -> None:
        happened.append("start")

    async def stop() -> None:
        happened.append("stop")

    monkeypatch.setattr(backend, "start", start)
    monkeypatch.setattr(backend, "stop", stop)
    async with app.router.lifespan_context(app):
        assert happened == ["start"]
    assert happened == ["start", "stop"]


async def test_a_gateway_that_stops_gives_up_what_it_is_loading(
    app: FastAPI, http: httpx2.AsyncClient, backend: Any, monkeypatch: Any
) -> None:
    monkeypatch.setattr("spacte_service.models.PROMPT_S", 0.01)
    backend.gate.clear()
    async with app.router.lifespan_context(app):
        assert (await http.post("/v1/models/digits/load")).status_code == 202
        (loading,) = app.state.gateway.models._changes
    assert loading.cancelled()
    assert backend.loads == []


async def test_traffic_is_divided_by_an_administrator_in_its_own_words(http: httpx2.AsyncClient, backend: Any) -> None:
    body = {"weights": {"000000": 0.9, "b07d55": 0.1}}
    answer = await http.put("/v1/models/digits/traffic", json=body)
    assert (answer.status_code, answer.json()["name"]) == (200, "digits")
    assert backend.weights == body["weights"]
    assert (await http.put("/v1/models/digits/traffic", json={"weights": 1})).status_code == 422
    assert (await http.post("/v1/models/digits/load", json={"traffic": 1.5})).status_code == 422
    assert (await http.post("/v1/models/digits/load", json={"traffic": 0.5})).status_code == 202
