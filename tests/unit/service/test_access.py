"""Promise: who may do what is as `docs/access.md` says, for every route of the OpenAPI document."""

import itertools
import json
import re
from pathlib import Path

import httpx2
import pytest
from tests.idle_cluster import IdleCluster

from spacte_client.types import Model
from spacte_service import Settings, create_app
from spacte_service.keys import make_key, write_keys
from spacte_service.signing_keys import make_signing_key, write_signing_keys

from .conftest import make_png

PAGE = Path(__file__).parents[3] / "docs" / "access.md"
CALLERS = ("owner", "same project", "other key", "admin", "no key", "revoked key")
ROW = re.compile(r"^\| `([A-Z]+) (/\S+)`( [a-z' ]+)? \| (.+) \|$", re.MULTILINE)
REFUSALS = (401, 403, 404)
_values = itertools.count()


class Gateway:
    """A gateway with keys, and an owner's files and jobs."""

    def __init__(self, settings, backend, checkpoint):
        folder, version = checkpoint
        served = Model.model_validate(backend.models()[0].model_dump() | {"version": version, "precision": "fp32"})
        backend.models = lambda: [served]
        pairs = {
            "owner": make_key("owner", "user", "lab"),
            "same project": make_key("mate", "user", "lab"),
            "other key": make_key("other", "user"),
            "admin": make_key("admin", "admin"),
            "revoked key": make_key("gone", "admin", "lab"),
        }
        keys = {who: key for who, (_, key) in pairs.items()}
        gone = keys["revoked key"]
        keys["revoked key"] = gone.model_copy(update={"revoked_at": gone.created_at})
        write_keys(settings.keys_file, list(keys.values()))
        self.secrets = {who: secret for who, (secret, _) in pairs.items()}
        self.app = create_app(settings.model_copy(update={"models": folder.parent}), backend)
        self.jobs = self.app.state.gateway.jobs
        self.http = httpx2.AsyncClient(transport=httpx2.ASGITransport(app=self.app), base_url="http://testserver")

    async def close(self):
        await self.http.aclose()
        await self.jobs.stop()

    async def ask(self, who, method, path, **options):
        headers = {"Authorization": f"Bearer {self.secrets[who]}"} if who in self.secrets else {}
        return await self.http.request(method, path, headers=headers, **options)

    async def file(self, who="owner"):
        """The id of a new file of a caller's; every image is another one."""
        image = {"file": ("d.png", make_png(next(_values) % 256))}
        answer = await self.ask(who, "POST", "/v1/files", files=image)
        assert answer.status_code == 200, answer.text
        return answer.json()["id"]

    async def job(self, who="owner"):
        """The id of a new job of a caller's, which failed."""
        answer = await self.ask(who, "POST", "/v1/jobs", json={"input": DIGITS})
        assert answer.status_code == 201, answer.text
        jobs = (await self.jobs.opened()).store.jobs
        while jobs.get(answer.json()["id"]).state != "failed":
            jobs.move(jobs.get(answer.json()["id"]), "failed", error=("internal", "It broke."))
        return answer.json()["id"]

    async def request(self, method, path, which):
        """What to ask: `method`, `path` and options; the ids are the owner's, and new."""
        options = {}
        file_id = await self.file() if which or "{file_id}" in path else None
        job_id = await self.job() if which or "{job_id}" in path else None
        ids = {"file_id": file_id, "job_id": job_id, "name": "digits", "index": 0}
        if "{version}" in path:
            ids["version"] = (await self.ask("admin", "GET", "/v1/models/digits")).json()["version"]
        if path.startswith(("/v1/certify", "/v1/predict", "/v1/sets", "/v1/brackets")):
            params = {"radius": 0.1} if path == "/v1/sets" else {}
            image = {"type": "file", "file_id": file_id}
            form = {"files": {"image": make_png()}, "data": {"params": json.dumps(params)}}
            options = {"json": {"image": image, **params}} if which else form
        elif (method, path) == ("POST", "/v1/files"):
            options = {"files": {"file": ("d.png", make_png())}}
        elif (method, path) == ("POST", "/v1/jobs"):
            options = {"json": {"input": {"type": "file", "file_id": file_id} if which else DIGITS}}
        elif which:
            options = {"params": {"after": ids["file_id"] if path == "/v1/files" else ids["job_id"]}}
        return method, path.format(**ids), options


DIGITS = {"type": "dataset", "name": "digits", "limit": 2}


@pytest.fixture(params=["sqlite", pytest.param("postgres", marks=pytest.mark.postgres)])
async def gateway(request, backend, tmp_path, make_checkpoint):
    database = None if request.param == "sqlite" else request.getfixturevalue("postgres_url")
    checkpoint = tmp_path / "models" / "digits", make_checkpoint(tmp_path / "models" / "digits")
    write_signing_keys(tmp_path / "signing.json", [make_signing_key()])
    settings = Settings(
        data_dir=tmp_path / "data",
        database=database,
        keys_file=tmp_path / "keys.json",
        signing_keys_file=tmp_path / "signing.json",
        in_process=True,
    )
    made = Gateway(settings.model_copy(update={"jobs_at_once": 1}), backend, checkpoint)
    made.jobs._runner = lambda folder: IdleCluster()
    yield made
    await made.close()


def rows():
    found = ROW.findall(PAGE.read_text())
    return [(method, path, which.strip(), tuple(cells.split(" | "))) for method, path, which, cells in found]


def test_every_route_is_in_the_table(app):
    described = {(verb.upper(), path) for path, verbs in app.openapi()["paths"].items() for verb in verbs}
    table = {(method, path) for method, path, _, _ in rows()}
    assert described - table == set(), "say in docs/access.md who may use these routes"
    assert table - described == set()
    assert {len(cells) for *_, cells in rows()} == {len(CALLERS)}


@pytest.mark.slow
async def test_the_table_is_true(gateway):
    mine, theirs = await gateway.job("owner"), await gateway.job("other key")
    untrue = {}
    for method, path, which, cells in rows():
        for who, cell in zip(CALLERS, cells, strict=True):
            verb, address, options = await gateway.request(method, path, which)
            answer = await gateway.ask(who, verb, address, **options)
            said = str(answer.status_code) if answer.status_code in REFUSALS else "yes"
            assert answer.status_code < 500, (method, path, who, answer.text)
            if said == "yes" and cell in ("own", "all"):
                said = await listed(gateway, path, who)
            if said != cell:
                untrue[method, path, which, who] = (cell, said, answer.text[:200])
    assert untrue == {}
    assert (await gateway.ask("owner", "GET", f"/v1/jobs/{theirs}")).status_code == 404
    assert (await gateway.ask("admin", "GET", f"/v1/jobs/{mine}")).status_code == 200


async def listed(gateway, path, who):
    """What a caller's list holds, of new entries of both sides."""
    make = gateway.file if path == "/v1/files" else gateway.job
    mine, theirs = await make("owner"), await make("other key")
    page = (await gateway.ask(who, "GET", path, params={"limit": 100})).json()["data"]
    shown = {entry["id"] for entry in page} & {mine, theirs}
    own = {theirs} if who == "other key" else {mine}
    return {frozenset({mine, theirs}): "all", frozenset(own): "own"}.get(frozenset(shown), f"{shown} of {mine, theirs}")


async def test_what_does_not_exist_and_what_is_anothers_look_the_same(gateway):
    for path, code in (
        (f"/v1/jobs/{await gateway.job()}", "job_not_found"),
        (f"/v1/files/{await gateway.file()}", "file_not_found"),
    ):
        other, nothing = (
            await gateway.ask("other key", "GET", path),
            await gateway.ask("other key", "GET", path[:-4] + "0000"),
        )
        assert (other.status_code, other.json()["code"]) == (nothing.status_code, nothing.json()["code"]) == (404, code)


async def test_equal_bytes_of_two_owners_are_two_files(gateway):
    data = make_png(99)

    async def upload(who):
        answer = await gateway.ask(who, "POST", "/v1/files", files={"file": (f"{who}.png", data)})
        return answer.json()

    mine, mate, other = [await upload(who) for who in ("owner", "same project", "other key")]
    assert mine == mate
    assert (mine["id"] != other["id"], other["filename"]) == (True, "other key.png")
    for who, gone in (("owner", mine), ("other key", other)):
        asked = {"json": {"image": {"type": "file", "file_id": gone["id"]}}}
        assert (await gateway.ask(who, "POST", "/v1/certify", **asked)).status_code == 200
        assert (await gateway.ask(who, "DELETE", f"/v1/files/{gone['id']}")).status_code == 204
    uploads = (await gateway.jobs.opened()).uploads
    assert not uploads.path(mine["sha256"]).exists()


async def test_a_kept_answer_is_of_one_key(gateway):
    ids = []
    for who in ("owner", "same project", "other key", "owner"):
        headers = {"Authorization": f"Bearer {gateway.secrets[who]}", "Idempotency-Key": "same"}
        answer = await gateway.http.post("/v1/jobs", json={"input": DIGITS}, headers=headers)
        ids.append(answer.json()["id"])
    assert (len(set(ids)), ids[0]) == (3, ids[3])
