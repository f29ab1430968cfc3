"""Promise: pages of other origins and other host names are kept out, unless the operator lets them in by name."""

from collections.abc import Callable

import httpx2
import pytest

from spacte_service import Settings

MakeHttp = Callable[[Settings], httpx2.AsyncClient]

LAB = {"Origin": "https://lab.example"}
PREFLIGHT = {"Access-Control-Request-Method": "POST", "Access-Control-Request-Headers": "authorization"}


@pytest.mark.parametrize("origin", ["https://evil.example", "null", "http://testserver.evil.example"])
async def test_cross_origin_requests_are_off_by_default(http: httpx2.AsyncClient, origin: str) -> None:
    read = await http.get("/v1/info", headers={"Origin": origin})
    assert read.status_code == 200
    assert not [name for name in read.headers if name.startswith("access-control-")]  # browsers hide the answer
    for changed in (
        await http.post("/v1/models/digits/unload", headers={"Origin": origin}),
        await http.options("/v1/certify", headers={"Origin": origin} | PREFLIGHT),
    ):
        assert (changed.status_code, changed.json()["code"]) == (403, "forbidden")
        assert "SPACTE_CORS_ORIGINS" in changed.json()["detail"]
        assert changed.headers["x-request-id"] == changed.json()["instance"]
        assert "access-control-allow-origin" not in changed.headers


async def test_an_origin_is_let_in_by_name(make_http: MakeHttp, digit: bytes) -> None:
    http = make_http(Settings(cors_origins="https://other.example, https://lab.example"))
    asked = await http.options("/v1/certify", headers=LAB | PREFLIGHT)
    assert asked.status_code == 200
    assert asked.headers["access-control-allow-origin"] == "https://lab.example"
    assert "Authorization" in asked.headers["access-control-allow-headers"]
    answer = await http.post("/v1/certify", files={"image": ("d.png", digit)}, headers=LAB)
    assert answer.status_code == 200
    assert answer.headers["access-control-allow-origin"] == "https://lab.example"
    assert {"X-Request-ID", "Retry-After"} <= set(answer.headers["access-control-expose-headers"].split(", "))
    assert "access-control-allow-credentials" not in answer.headers
    stranger = await http.options("/v1/certify", headers={"Origin": "https://evil.example"} | PREFLIGHT)
    assert stranger.status_code == 403
    assert "access-control-allow-origin" not in stranger.headers


async def test_the_gateway_s_own_pages_may_call_it(http: httpx2.AsyncClient) -> None:
    own = {"Origin": "http://testserver"}
    assert (await http.post("/v1/models/digits/load", headers=own)).status_code == 202


@pytest.mark.parametrize(
    ("host", "status"),
    [
        ("gateway.example", 200),
        ("GATEWAY.example:8000", 200),
        ("evil.example", 403),
        ("gateway.example.evil", 403),
        ("[::1", 403),  # no host name at all
    ],
)
async def test_it_goes_by_the_names_that_it_was_given(make_http: MakeHttp, host: str, status: int) -> None:
    http = make_http(Settings(allowed_hosts="gateway.example"))
    answer = await http.get("/livez", headers={"Host": host})
    assert answer.status_code == status
    if status == 403:
        assert "SPACTE_ALLOWED_HOSTS" in answer.json()["detail"]
