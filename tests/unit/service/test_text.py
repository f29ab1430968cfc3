"""Promise: text that a database, a file system or a codec does not take is refused where it comes in."""

import httpx2
import pytest

from spacte_service import Settings, create_app

from .conftest import make_png

JOB = {"input": {"type": "dataset", "name": "digits"}}


@pytest.fixture(params=["sqlite", pytest.param("postgres", marks=pytest.mark.postgres)])
async def http(request, backend, tmp_path):
    database = None if request.param == "sqlite" else request.getfixturevalue("postgres_url")
    app = create_app(Settings(data_dir=tmp_path / "data", database=database, in_process=True), backend)
    await app.state.gateway.jobs.opened()
    transport = httpx2.ASGITransport(app=app)
    async with httpx2.AsyncClient(transport=transport, base_url="http://testserver") as client:
        yield client
    await app.state.gateway.jobs.stop()


def refused(answer):
    assert 400 <= answer.status_code < 500, (answer.status_code, answer.text)
    assert answer.headers["content-type"] in ("application/problem+json", "application/json")
    assert answer.json()["detail"].endswith((".", "?"))
    return answer.json()


ADDRESSES = [
    "/v1/jobs/%00",
    "/v1/jobs/job_%00/results",
    "/v1/jobs/%00/images/0",
    "/v1/files/file_%00",
    "/v1/jobs?after=%00",
    "/v1/files?after=file_%00",
    "/v1/models/%00",
    "/v1/models/a%00b/samples",
    "/v2/models/%00",
    "/%00",
    "/static/%00",
]


async def test_nul_in_addresses(http):
    for address in ADDRESSES:
        assert refused(await http.get(address))["code"] == "bad_request", address
    for address in ("/v1/models/%00/load", "/v1/models/%00/unload", "/v1/jobs/%00/cancel", "/v1/jobs/%00/resume"):
        assert refused(await http.post(address))["code"] == "bad_request", address
    for address in ("/v1/jobs/%00", "/v1/files/%00"):
        assert refused(await http.delete(address))["code"] == "bad_request", address


BODIES = [
    ("/v1/jobs", JOB | {"model": "\0"}, "/model"),
    ("/v1/jobs", JOB | {"metadata": {"note": "a\0b"}}, "/metadata/note"),
    ("/v1/jobs", JOB | {"metadata": {"a\0b": "note"}}, "/metadata"),
    ("/v1/jobs", {"input": {"type": "file", "file_id": "file_\0"}}, "/input/file_id"),
    ("/v1/jobs", {"input": {"type": "uri", "uri": "file:///\0"}}, "/input/uri"),
    ("/v1/jobs", {"input": {"type": "dataset", "name": "digits", "split": "\0"}}, "/input/split"),
    ("/v1/certify", {"image": {"type": "file", "file_id": "\0"}}, "/image/file_id"),
    ("/v1/certify", {"image": {"type": "base64", "data": "AAAA"}, "model": "\0"}, "/model"),
    ("/v1/predict", {"images": [{"type": "file", "file_id": "\0"}]}, "/images/0/file_id"),
]


@pytest.mark.parametrize("coding", ["utf-8", "utf-16"])
async def test_nul_in_bodies(http, coding):
    import json

    for path, body, pointer in BODIES:
        content = json.dumps(body).encode(coding)
        problem = refused(await http.post(path, content=content, headers={"Content-Type": "application/json"}))
        assert [error["pointer"] for error in problem["errors"]] == [pointer]
    harmless = JOB | {"metadata": {"note": r"\u0000 as six letters"}, "model": "none"}
    assert (await http.post("/v1/jobs", json=harmless)).json()["code"] == "model_not_found"


def form(name=b"file", filename=b"a.png", boundary=b"x"):
    head = b'Content-Disposition: form-data; name="' + name + b'"; filename="' + filename + b'"'
    return b"--x\r\n" + head + b"\r\n\r\n" + make_png() + b"\r\n--x--\r\n"


async def test_nul_in_forms(http):
    kind = {"Content-Type": "multipart/form-data; boundary=x"}
    for path, field in (("/v1/files", b"file"), ("/v1/certify", b"image")):
        refused(await http.post(path, content=form(field, b"a\0b.png"), headers=kind))
        refused(await http.post(path, content=form(field + b"\0"), headers=kind))
        assert (await http.post(path, content=form(field), headers=kind)).status_code == 200


@pytest.mark.parametrize(
    "charset", ["undefined", "idna", "punycode", "hex", "no-such", "utf-7", "\x7f", "unicode_escape"]
)
async def test_charsets_that_are_none(http, charset):
    kind = {"Content-Type": f'multipart/form-data; boundary=x; charset="{charset}"'}
    for path in ("/v1/files", "/v1/certify"):
        assert refused(await http.post(path, content=form(), headers=kind))["code"] == "unsupported_media_type"


@pytest.mark.parametrize("charset", ["utf-8", "UTF-8", "us-ascii", "iso-8859-1", "latin-1"])
async def test_charsets_that_are_some(http, charset):
    kind = {"Content-Type": f"multipart/form-data; boundary=x; charset={charset}"}
    assert (await http.post("/v1/files", content=form(), headers=kind)).status_code == 200
