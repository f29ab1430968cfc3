"""What cannot be certified is a clear problem, and leaves nothing half-made."""

import io
import math
import os
import zipfile

import fsspec
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from pydantic import ValidationError

from spacte_service import Settings
from spacte_service.jobs import reconciler
from spacte_service.jobs.runner import DriverStatus


@pytest.mark.slow
@pytest.mark.parametrize(
    ("fields", "status", "code", "words"),
    [
        ({"input": {"type": "dataset", "name": "nowhere"}}, 422, "validation_failed", "no data set 'nowhere'"),
        ({"input": {"type": "dataset", "name": "digits", "split": "dev"}}, 422, "validation_failed", "split"),
        ({"input": {"type": "dataset", "name": "parquet:/etc"}}, 422, "validation_failed", "no data set"),
        ({"input": {"type": "file", "file_id": "file_x"}}, 404, "file_not_found", "no file 'file_x'"),
        ({"input": {"type": "uri", "uri": "file:///etc/passwd"}}, 422, "validation_failed", "reads no files"),
        ({"input": {"type": "ftp"}}, 422, "validation_failed", ""),
        ({"model": "nothing"}, 404, "model_not_found", "No model 'nothing'"),
        ({"params": {"deadline_ms": 5}}, 422, "validation_failed", "do not depend on time"),
        ({"params": {"k_consensus": 9}}, 422, "validation_failed", "5 heads"),
        ({"params": {"sigma": 0.5}}, 422, "validation_failed", "sigma 0.25"),
        ({"params": {"n": 10**7}}, 422, "validation_failed", "at most"),
        ({"params": {"seed": "0" * 32}}, 422, "validation_failed", "seed"),
        ({"params": {"model": "digits"}}, 422, "validation_failed", ""),
        (
            {"params": {"certify": "fp32", "stop_incorrect": True}},
            422,
            "validation_failed",
            "leave `stop_incorrect` out",
        ),
        ({"nonsense": 1}, 422, "validation_failed", "not a field"),
    ],
)
async def test_what_is_refused_leaves_nothing(world, fields, status, code, words):
    answer = await world.create(**fields)
    assert (answer.status_code, answer.json()["code"]) == (status, code)
    assert words in answer.json()["detail"]
    assert (await world.http.get("/v1/jobs")).json()["data"] == []
    assert not (world.settings.data_dir / "jobs").exists()
    assert world.runner.commands == {}


@pytest.mark.parametrize(
    ("headers", "body", "status"),
    [
        ({}, b"", 400),
        ({"content-type": "application/json"}, b"{", 400),
        ({"content-type": "text/plain"}, b"{}", 415),
        ({"idempotency-key": "\t"}, b"{}", 400),
    ],
)
async def test_bodies_and_keys_that_cannot_be_read(world, headers, body, status):
    assert (await world.http.post("/v1/jobs", content=body, headers=headers)).status_code == status


def packed(name, member):
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr(name, member)
    return file.getvalue()


def saved(save, **arrays):
    file = io.BytesIO()
    save(file, **arrays)
    return file.getvalue()


def claiming(archive, size):
    """A zip whose first member says that it unpacks to so many bytes (PKZIP APPNOTE, 4.3.12)."""
    at = archive.index(b"PK\x01\x02") + 24
    return archive[:at] + size.to_bytes(4, "little") + archive[at + 4 :]


def parquet(**columns):
    file = io.BytesIO()
    pq.write_table(pa.table(columns), file)
    return file.getvalue()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("data", "words"),
    [
        (saved(np.savez, images=np.zeros((0, 1, 8, 8), np.uint8)), "holds no image"),
        (saved(np.savez, images=np.zeros((2, 3, 8, 8), np.uint8)), "but the model takes"),
        (claiming(saved(np.savez_compressed, images=np.zeros((3, 1, 8, 8), np.uint8)), 3 << 30), "unpacked here"),
        (packed("../a.png", b"x"), "outside itself"),
        (packed("a.png", bytes(65 << 20)), "unpacks from"),
        (packed("readme.txt", b"x"), "holds no PNG"),
        (parquet(pixels=[1], label=[2]), "has columns pixels, label"),
        (parquet(image=pa.array([], pa.binary())), "holds no image"),
        (b"\x93NUMPY" + bytes(50), "none of npz"),
    ],
    ids=["empty", "shape", "npz-bomb", "traversal", "zip-bomb", "no-images", "columns", "no-rows", "image"],
)
async def test_files_that_cannot_be_certified_make_no_job(world, data, words):
    file = (await world.http.post("/v1/files", files={"file": ("x", data)})).json()
    answer = await world.create(input={"type": "file", "file_id": file["id"]})
    assert answer.status_code == 422, answer.text
    assert words in answer.json()["detail"]
    assert answer.json()["errors"][0]["pointer"] == "/input"
    assert (await world.http.get("/v1/jobs")).json()["data"] == []
    assert {place.name for place in world.settings.data_dir.iterdir() if place.is_dir()} == {"files"}
    assert (await world.http.delete(f"/v1/files/{file['id']}")).status_code == 204


async def test_a_file_stays_while_its_job_needs_it(world):
    data = saved(np.savez, images=np.zeros((world.images, 1, 8, 8), np.uint8))
    file = (await world.http.post("/v1/files", files={"file": ("x", data)})).json()
    job = (await world.create(input={"type": "file", "file_id": file["id"]})).json()
    await world.until(job["id"], "running")
    used = await world.http.delete(f"/v1/files/{file['id']}")
    assert (used.status_code, used.json()["code"]) == (409, "file_in_use")
    assert job["id"] in used.json()["detail"]
    world.runner.drivers[f"{job['id']}-1"] = DriverStatus("failed", "killed")
    await world.until(job["id"], "failed")
    assert (await world.http.delete(f"/v1/files/{file['id']}")).status_code == 204
    resumed = await world.http.post(f"/v1/jobs/{job['id']}/resume")
    assert (resumed.status_code, resumed.json()["code"]) == (409, "job_state")
    assert "There is no file" in resumed.json()["detail"]


@pytest.mark.slow
async def test_a_uri_below_a_root(make_world, tmp_path):
    root = tmp_path / "root"
    root.mkdir()
    (tmp_path / "outside.npz").write_bytes(saved(np.savez, images=np.zeros((2, 1, 8, 8), np.uint8)))
    (root / "link.npz").symlink_to(tmp_path / "outside.npz")
    (root / "set.npz").write_bytes((tmp_path / "outside.npz").read_bytes())
    world = make_world(input_roots=str(root))
    good = await world.create(input={"type": "uri", "uri": f"file://{root}/set.npz"})
    assert (good.status_code, good.json()["counts"]["total"]) == (201, 2)
    for uri in (f"file://{root}/link.npz", f"file://{root}/../outside.npz", f"file://{tmp_path}/outside.npz"):
        bad = await world.create(input={"type": "uri", "uri": uri})
        assert bad.status_code == 422
        assert "There is no file" in bad.json()["detail"]


@pytest.fixture
def elsewhere():
    """Files on another machine, below the prefix memory://sets."""
    system = fsspec.filesystem("memory")
    system.pipe("/sets/set.npz", saved(np.savez, images=np.zeros((2, 1, 8, 8), np.uint8)))
    system.pipe("/sets/bad.npz", b"no such file")
    system.pipe("/private/set.npz", saved(np.savez, images=np.zeros((2, 1, 8, 8), np.uint8)))
    yield system
    for folder in ("/sets", "/private"):
        system.rm(folder, recursive=True)


async def test_a_uri_of_another_machine_is_copied_for_the_job(make_world, elsewhere, tmp_path):
    world = make_world(input_roots=f"{tmp_path},memory://sets")
    source = {"type": "uri", "uri": "memory://sets/set.npz", "label_column": None}
    jobs = [(await world.create(input=source)).json() for _ in range(2)]
    assert [(job["counts"]["total"], job["input"]) for job in jobs] == [(2, source)] * 2
    fetched = world.settings.data_dir / "fetched"
    (copy,) = fetched.iterdir()
    assert copy.read_bytes() == elsewhere.cat("/sets/set.npz")
    for job in jobs:
        await world.until(job["id"], "running")
        assert world.folder(job["id"]).spec().input.location == str(copy.resolve())
    elsewhere.rm("/sets/set.npz")  # the jobs go on with what they began with
    world.runner.drivers[f"{jobs[0]['id']}-1"] = DriverStatus("failed", "killed")
    await world.until(jobs[0]["id"], "failed")
    assert (await world.http.post(f"/v1/jobs/{jobs[0]['id']}/resume")).status_code == 200


async def test_a_uri_of_another_machine_that_is_refused_leaves_nothing(make_world, elsewhere, tmp_path):
    world = make_world(input_roots="memory://sets", max_upload_bytes=1024)
    elsewhere.pipe("/sets/large.npz", bytes(2048))
    for uri, words in {
        "memory://private/set.npz": "There is no file",
        "memory://sets/missing.npz": "There is no file",
        "memory://sets/../private/set.npz": "straight",
        "memory://sets/large.npz": "more than 1,024 bytes",
        "memory://sets/bad.npz": "none of npz",
        "memory://key:secret@sets/set.npz": "no credentials",
        "s3://sets/set.npz": "URIs of scheme 's3' are not read here: use memory: or upload",
        "file:///etc/passwd": "URIs of scheme 'file' are not read here: use memory: or upload",
        "/etc/passwd": "URIs of scheme 'file' are not read here",
    }.items():
        bad = await world.create(input={"type": "uri", "uri": uri})
        assert (bad.status_code, bad.json()["code"]) == (422, "validation_failed"), uri
        assert words in bad.json()["detail"], uri
    assert (await world.http.get("/v1/jobs")).json()["data"] == []
    assert not (world.settings.data_dir / "jobs").exists()


async def test_the_copy_goes_when_no_job_has_it_any_more(make_world, elsewhere, monkeypatch):
    monkeypatch.setattr(reconciler, "CLEAN_UP_S", math.inf)  # nobody cleans up but this test
    world = make_world(input_roots="memory://sets")
    job = (await world.create(input={"type": "uri", "uri": "memory://sets/set.npz"})).json()
    (copy,) = (world.settings.data_dir / "fetched").iterdir()
    os.utime(copy, (0, 0))
    opened = await world.batch.opened()
    await opened.reconciler._clean_up()
    assert copy.exists()
    await world.until(job["id"], "running")
    await world.http.post(f"/v1/jobs/{job['id']}/cancel")
    world.runner.drivers[f"{job['id']}-1"] = DriverStatus("stopped")
    await world.until(job["id"], "cancelled")
    assert (await world.http.delete(f"/v1/jobs/{job['id']}")).status_code == 204
    await opened.reconciler._clean_up()
    assert not copy.exists()


@pytest.mark.parametrize(
    ("roots", "words"),
    [
        ("gopher://host/sets", "no driver for gopher"),
        ("file:///data", "is a folder of this machine"),
        ("s3://key:secret@bucket", "no credentials"),
        ("/data:memory://sets", "scheme://place/path"),
        ("memory://sets/../private", "straight"),
    ],
)
def test_roots_that_mean_nothing_are_refused_at_the_start(roots, words):
    with pytest.raises(ValidationError, match=words):
        Settings(input_roots=roots)


def test_folders_and_prefixes_in_one_setting(tmp_path):
    settings = Settings(input_roots=f"{tmp_path}/a:{tmp_path}/b,memory://sets,{tmp_path}/c")
    assert settings.roots == [tmp_path.resolve() / name for name in "abc"]
    assert settings.remote_roots == ["memory://sets"]
