"""Promise: a database or disk that fails is a 503 or 507 with a time, `/readyz` sees it, and all is well afterwards."""

import asyncio
import gc
import sqlite3
import subprocess
import time

import httpx2
import pytest
from tests.idle_cluster import IdleCluster

from spacte_service import Settings, create_app
from spacte_service.store import StoreError

from .conftest import make_png

pytestmark = pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
"""A form's temporary file that could not be written fails once more when it is collected."""


@pytest.fixture(autouse=True)
def collected():
    """What fails when it is collected does so here, and not in another test."""
    yield
    gc.collect()


DIGITS = {"input": {"type": "dataset", "name": "digits", "limit": 2}}


@pytest.fixture
def disk(tmp_path):
    """A file system of half a megabyte."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=512k", "tmpfs", folder], check=False, capture_output=True
    )
    if mounted.returncode:
        pytest.skip("no file system can be mounted here: it needs root")
    yield folder
    subprocess.run(["umount", "--lazy", folder], check=True)


@pytest.fixture
async def serve(backend, tmp_path, make_checkpoint, monkeypatch):
    """Starts gateways on a folder or a database, whose storage is looked at all the time."""
    monkeypatch.setattr("spacte_service.jobs.reconciler.CHECK_S", 0.1)
    monkeypatch.setattr("spacte_service.jobs.reconciler.PERIOD_S", 0.1)
    monkeypatch.setattr("spacte_service.store.engine.BUSY_MS", 100)
    version = make_checkpoint(tmp_path / "models" / "digits")
    served = backend.models()[0].model_copy(update={"version": version, "precision": "fp32"})
    backend.models = lambda: [served]
    apps = []

    async def start(folder, database=None):
        settings = Settings(models=tmp_path / "models", data_dir=folder, database=database, in_process=True)
        app = create_app(settings, backend)
        app.state.gateway.jobs._runner = lambda folder: IdleCluster()
        apps.append(app)
        await app.state.gateway.jobs.start()
        return httpx2.AsyncClient(transport=httpx2.ASGITransport(app=app), base_url="http://testserver")

    yield start
    for app in apps:
        await app.state.gateway.jobs.stop()


def fill(path):
    with path.open("wb", buffering=0) as file:
        while True:
            file.write(bytes(4096))


def remount(disk, how):
    subprocess.run(["mount", "-o", f"remount,{how}", disk], check=True)


async def upload(http, value=0):
    return await http.post("/v1/files", files={"file": ("d.png", make_png(value))})


async def readiness(http, status, *, wrong=None, within_s=30):
    """What `/readyz` says, once its status is this one and something is `wrong`; both are looked at in turns."""
    end = time.monotonic() + within_s
    while (answer := await http.get("/readyz")).status_code != status or answer.json()["checks"].get(wrong) == "ok":
        assert time.monotonic() < end, answer.text
        await asyncio.sleep(0.05)
    return answer.json()["checks"]


def refused(answer, status, words):
    assert answer.status_code == status, answer.text
    assert answer.headers["content-type"] == "application/problem+json"
    assert int(answer.headers["retry-after"]) >= 1
    assert words in answer.json()["detail"]
    return True


async def all_is_well(http, job):
    assert set((await readiness(http, 200)).values()) == {"ok"}
    assert (await http.get(f"/v1/jobs/{job}")).json()["state"] == "queued"
    assert (await upload(http, 9)).status_code == 200
    assert (await http.post("/v1/jobs", json=DIGITS)).status_code == 201


async def test_a_full_disk(serve, disk):
    http = await serve(disk / "data")
    job = (await http.post("/v1/jobs", json=DIGITS)).json()["id"]
    with pytest.raises(OSError, match="No space"):
        fill(disk / "filler")
    assert refused(await upload(http), 507, "disk is full")
    checks = await readiness(http, 503, wrong="data_folder")
    assert "disk is full" in checks["data_folder"]
    assert (await http.get(f"/v1/jobs/{job}")).json()["state"] == "stalled"
    assert [each["id"] for each in (await http.get("/v1/jobs?state=stalled")).json()["data"]] == [job]
    assert (await http.get("/v1/jobs?state=queued")).json()["data"] == []
    assert (await http.post("/v1/certify", files={"image": make_png()})).status_code == 200
    (disk / "filler").unlink()
    await all_is_well(http, job)


@pytest.mark.postgres
async def test_a_disk_that_is_read_only(serve, disk, postgres_url):
    http = await serve(disk / "data", postgres_url)
    job = (await http.post("/v1/jobs", json=DIGITS)).json()["id"]
    remount(disk, "ro")
    assert refused(await upload(http), 503, "Read-only file system")
    assert "Read-only" in (await readiness(http, 503, wrong="data_folder"))["data_folder"]
    assert (await http.get(f"/v1/jobs/{job}")).json()["state"] == "stalled"
    with pytest.raises(StoreError, match=r"cannot be written \(Read-only file system\)"):
        await serve(disk / "data", postgres_url)
    remount(disk, "rw")
    await all_is_well(http, job)


async def test_a_lock_that_is_held(serve, tmp_path):
    http = await serve(tmp_path / "data")
    job = (await http.post("/v1/jobs", json=DIGITS)).json()["id"]
    other = sqlite3.connect(tmp_path / "data" / "spacte.sqlite", isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    assert refused(await http.post("/v1/jobs", json=DIGITS), 503, "holds the database's lock")
    assert refused(await upload(http), 503, "holds the database's lock")
    assert "lock" in (await readiness(http, 503))["database"]
    assert (await http.get(f"/v1/jobs/{job}")).json()["state"] == "stalled"
    other.execute("ROLLBACK")
    other.close()
    await all_is_well(http, job)


@pytest.mark.postgres
@pytest.mark.slow
async def test_a_postgresql_that_is_away(serve, tmp_path, start_postgres):
    server = start_postgres()
    http = await serve(tmp_path / "data", server.url)
    job = (await http.post("/v1/jobs", json=DIGITS)).json()["id"]
    server.stop()
    for answer in (await http.get("/v1/jobs"), await upload(http), await http.post("/v1/jobs", json=DIGITS)):
        assert refused(answer, 503, "database does not answer")
        assert answer.json()["code"] == "store_unavailable"
    assert "does not answer" in (await readiness(http, 503))["database"]
    assert (await http.post("/v1/certify", files={"image": make_png()})).status_code == 200
    with pytest.raises(StoreError, match="cannot be opened"):
        await serve(tmp_path / "other", server.url)
    server.start()
    await all_is_well(http, job)
