"""Promises of uploads: the same bytes once, told by their bytes, kept while a job needs them."""

import asyncio
import io
import os
import threading
from concurrent.futures import ThreadPoolExecutor

import httpx2
import numpy as np
import pytest

from spacte_service import Settings, create_app
from spacte_service.callers import anonymous
from spacte_service.content_files import keep, received
from spacte_service.jobs.data_folder import DataFolder
from spacte_service.problems import ProblemError
from spacte_service.quota_settings import Quotas
from spacte_service.store import Store
from spacte_service.uploads import Uploads
from spacte_workers.batch.inputs import kind_of

NOBODY = anonymous("127.0.0.1", Quotas())


def npz(count=3, seed=0, **arrays):
    images = np.random.default_rng(seed).integers(0, 256, (count, 1, 8, 8), dtype=np.uint8)
    file = io.BytesIO()
    np.savez(file, images=images, **arrays)
    return file.getvalue()


@pytest.fixture
async def http(backend, tmp_path):
    app = create_app(Settings(data_dir=tmp_path / "data", max_upload_bytes=100_000), backend)
    transport = httpx2.ASGITransport(app=app)
    async with httpx2.AsyncClient(transport=transport, base_url="http://testserver") as client:
        yield client
    await app.state.gateway.jobs.stop()


async def upload(http, data, name="set.npz"):
    return await http.post("/v1/files", files={"file": (name, data)})


async def test_a_file_goes_up_is_listed_shown_and_deleted(http, tmp_path):
    answer = await upload(http, npz())
    assert answer.status_code == 200
    file = answer.json()
    assert (file["kind"], file["bytes"], file["filename"]) == ("npz", len(npz()), "set.npz")
    assert (await http.get(f"/v1/files/{file['id']}")).json() == file
    page = (await http.get("/v1/files")).json()
    assert page == {"data": [file], "has_more": False, "first_id": file["id"], "last_id": file["id"]}
    kept = [path for path in (tmp_path / "data" / "files").rglob("*") if path.is_file()]
    assert [path.name for path in kept] == [file["sha256"]]
    assert kept[0].read_bytes() == npz()
    assert (await http.delete(f"/v1/files/{file['id']}")).status_code == 204
    assert not kept[0].exists()
    gone = await http.get(f"/v1/files/{file['id']}")
    assert (gone.status_code, gone.json()["code"]) == (404, "file_not_found")
    assert (await http.delete(f"/v1/files/{file['id']}")).status_code == 404


async def test_the_same_bytes_are_one_file(http):
    first = (await upload(http, npz(), "a.npz")).json()
    again = (await upload(http, npz(), "b.npz")).json()
    other = (await upload(http, npz(seed=1), "c.npz")).json()
    assert again == first
    assert other["id"] != first["id"]
    page = (await http.get("/v1/files?limit=1")).json()
    assert ([file["id"] for file in page["data"]], page["has_more"]) == ([other["id"]], True)
    rest = (await http.get(f"/v1/files?limit=1&after={page['last_id']}")).json()
    assert ([file["id"] for file in rest["data"]], rest["has_more"]) == ([first["id"]], False)


@pytest.mark.parametrize(
    ("data", "status", "code"),
    [
        (b"", 400, "bad_request"),
        (b"hello world", 415, "unsupported_media_type"),
        (b"\x7fELF" + bytes(100), 415, "unsupported_media_type"),
        (bytes(200_000), 413, "payload_too_large"),
    ],
)
async def test_what_is_refused_leaves_nothing(http, tmp_path, data, status, code):
    answer = await upload(http, data)
    assert (answer.status_code, answer.json()["code"]) == (status, code)
    assert (await http.get("/v1/files")).json()["data"] == []
    assert [path for path in (tmp_path / "data").glob("files/**/*") if path.is_file()] == []


@pytest.mark.parametrize(
    "query", ["limit=0", "limit=1000", "limit=x", "after=file_nothing"], ids=["small", "large", "word", "gone"]
)
async def test_pages_that_are_not_there(http, query):
    answer = await http.get(f"/v1/files?{query}")
    assert answer.status_code == (404 if "after" in query else 422)
    assert answer.json()["detail"]


async def test_a_form_without_a_file(http):
    answer = await http.post("/v1/files", files={"image": ("a.npz", npz())})
    assert (answer.status_code, answer.json()["code"]) == (422, "validation_failed")


def test_a_file_deleted_while_it_comes_again_is_there_in_the_end(tmp_path):
    """Whoever is told a file's id finds its bytes, as long as no one deleted that id afterwards."""
    store = Store.open(f"sqlite:///{tmp_path}/store.sqlite")
    uploads = Uploads(store, DataFolder(tmp_path), kind_of)
    for round_ in range(10):
        data = npz(seed=round_)
        first = uploads.add(io.BytesIO(data), "a", NOBODY)
        barrier = threading.Barrier(2)

        def delete(first=first, barrier=barrier):
            barrier.wait()
            uploads.remove(first.id, NOBODY)

        def add(data=data, barrier=barrier):
            barrier.wait()
            return uploads.add(io.BytesIO(data), "b", NOBODY)

        with ThreadPoolExecutor(2) as threads:
            deleted, added = threads.submit(delete), threads.submit(add)
            deleted.result()
            second = added.result()
        if second.id == first.id:  # it came before the deletion
            with pytest.raises(ProblemError):
                uploads.get(first.id, NOBODY)
        else:
            assert uploads.path(uploads.get(second.id, NOBODY).sha256).read_bytes() == data
    store.close()


def test_a_file_deleted_while_it_is_renewed_is_kept_anew(tmp_path, monkeypatch):
    kept, renew = tmp_path / "kept" / "digest", os.utime

    def utime(path):
        path.unlink()
        renew(path)

    monkeypatch.setattr(os, "utime", utime)
    for _ in range(2):
        with received([b"bytes"], tmp_path) as file:
            keep(file, kept)
    assert kept.read_bytes() == b"bytes"


def asking(*file_ids, **fields):
    images = [{"type": "file", "file_id": file_id} for file_id in file_ids]
    return {"model": "digits", "n": 100} | ({"images": images} if len(images) > 1 else {"image": images[0]}) | fields


async def test_an_uploaded_image_is_certified_and_predicted_by_its_name(http, png):
    seven, nine = [(await upload(http, png(value), "digit.png")).json() for value in (7, 9)]
    sent = await http.post("/v1/certify", files={"image": ("digit.png", png(7))}, data={"params": "{}"})
    named = await http.post("/v1/certify", json=asking(seven["id"]))
    assert named.status_code == 200, named.text
    assert named.json()["image_sha256"] == sent.json()["image_sha256"]
    several = await http.post("/v1/predict", json=asking(nine["id"], seven["id"], nine["id"]))
    assert [answer["label"] for answer in several.json()["data"]] == [9, 7, 9]


async def test_what_is_no_uploaded_image_is_said_so(http):
    archive = (await upload(http, npz())).json()
    refused = await http.post("/v1/certify", json=asking(archive["id"]))
    assert (refused.status_code, refused.json()["code"]) == (415, "unsupported_media_type")
    assert "make a job of this file" in refused.json()["detail"]
    unknown = await http.post("/v1/certify", json=asking("file_x"))
    assert (unknown.status_code, unknown.json()["code"]) == (404, "file_not_found")


async def test_uploaded_images_of_one_request_are_no_larger_than_a_body(backend, tmp_path, png):
    settings = Settings(data_dir=tmp_path / "data", max_body_bytes=2048)
    app = create_app(settings, backend)
    transport = httpx2.ASGITransport(app=app)
    async with httpx2.AsyncClient(transport=transport, base_url="http://testserver") as http:
        files = [(await upload(http, png(value) + bytes(1500), "a.png")).json()["id"] for value in (1, 2)]
        assert (await http.post("/v1/certify", json=asking(files[0]))).status_code == 200
        refused = await http.post("/v1/predict", json=asking(*files))
        assert (refused.status_code, refused.json()["code"]) == (413, "payload_too_large")
    await app.state.gateway.jobs.stop()


async def test_an_image_whose_bytes_are_gone_is_not_found(http, tmp_path, png):
    image = (await upload(http, png(7), "digit.png")).json()
    (kept,) = [path for path in (tmp_path / "data" / "files").rglob("*") if path.is_file()]
    kept.unlink()
    gone = await http.post("/v1/certify", json=asking(image["id"]))
    assert (gone.status_code, gone.json()["code"]) == (404, "file_not_found")


FORM = {"Content-Type": "multipart/form-data; boundary=x"}
HEAD = b'--x\r\nContent-Disposition: form-data; name="file"; filename="set.npz"\r\n\r\n'
TAIL = b"\r\n--x--\r\n"


class Body:
    """A form that comes piece by piece, and knows how much of it was taken."""

    def __init__(self, *pieces, pause_s=0.0):
        self.pieces = pieces
        self.pause_s = pause_s
        self.taken = 0

    async def __aiter__(self):
        for piece in self.pieces:
            self.taken += 1
            yield piece
            await asyncio.sleep(self.pause_s)


@pytest.fixture
async def serving(backend, tmp_path):
    """Makes applications with other settings; gives each one's gateway and a client."""
    opened = []

    def make(**settings):
        app = create_app(Settings(data_dir=tmp_path / "data", **settings), backend)
        http = httpx2.AsyncClient(transport=httpx2.ASGITransport(app=app), base_url="http://testserver")
        opened.append((app.state.gateway, http))
        return opened[-1]

    yield make
    for gateway, http in opened:
        await http.aclose()
        await gateway.jobs.stop()


async def test_who_may_not_upload_is_told_so_before_the_body_is_read(serving):
    _, http = serving(api_keys=f"alice:user:{'0' * 64}")
    body = Body(HEAD, npz(), TAIL)
    answer = await http.post("/v1/files", content=body, headers=FORM)
    assert (answer.status_code, answer.json()["code"], body.taken) == (401, "unauthenticated", 0)


async def test_a_gateway_that_drains_reads_no_upload(serving):
    gateway, http = serving()
    gateway.drain.begin()
    body = Body(HEAD, npz(), TAIL)
    answer = await http.post("/v1/files", content=body, headers=FORM)
    assert (answer.status_code, answer.json()["code"], body.taken) == (503, "draining", 0)


@pytest.mark.slow
async def test_an_upload_may_take_long_but_not_stand_still(serving, until):
    """It counts as work in flight, which a gateway that shuts down waits for."""
    gateway, http = serving(body_timeout_s=1.0)
    steady = Body(HEAD, *(bytes([byte]) for byte in npz()[:12]), npz()[12:], TAIL, pause_s=0.1)
    uploading = asyncio.create_task(http.post("/v1/files", content=steady, headers=FORM))
    await until(lambda: steady.taken)
    assert gateway.drain.in_flight == 1
    assert (await uploading).status_code == 200
    silent = Body(HEAD, b"PK", TAIL, pause_s=60.0)
    answer = await http.post("/v1/files", content=silent, headers=FORM)
    assert (answer.status_code, answer.json()["code"]) == (400, "bad_request")
    assert "1 s" in answer.json()["detail"]
    assert gateway.drain.in_flight == 0


async def test_an_upload_is_a_form(http):
    answer = await http.post("/v1/files", content=npz())
    assert (answer.status_code, answer.json()["code"]) == (415, "unsupported_media_type")
