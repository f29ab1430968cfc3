"""What cannot be certified is a clear problem, and leaves nothing half-made."""

import io
import zipfile

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from spacte_service.jobs.runner import Seen


@pytest.mark.parametrize(
    ("fields", "status", "code", "words"),
    [
        (
            {"input": {"type": "dataset", "name": "nowhere"}},
            422,
            "validation_failed",
            "no data set 'nowhere'",
        ),
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
        ({"idempotency-key": "\t"}, b"{}", 422),
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


def parquet(**columns):
    file = io.BytesIO()
    pq.write_table(pa.table(columns), file)
    return file.getvalue()


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (saved(np.savez, images=np.zeros((0, 1, 8, 8), np.uint8)), "holds no image"),
        (saved(np.savez, images=np.zeros((2, 3, 8, 8), np.uint8)), "but the model takes"),
        (saved(np.savez_compressed, images=np.zeros((300_000, 1, 8, 8), np.uint8)), "100 times its size"),
        (packed("../a.png", b"x"), "outside itself"),
        (packed("a.png", bytes(40 << 20)), "unpacks from"),
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
    world.runner.drivers[f"{job['id']}-1"] = Seen("failed", "killed")
    await world.until(job["id"], "failed")
    assert (await world.http.delete(f"/v1/files/{file['id']}")).status_code == 204
    resumed = await world.http.post(f"/v1/jobs/{job['id']}/resume")
    assert (resumed.status_code, resumed.json()["code"]) == (409, "job_state")
    assert "There is no file" in resumed.json()["detail"]


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
