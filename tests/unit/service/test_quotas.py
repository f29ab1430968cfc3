"""Promise: a key takes no more than its quotas, is told which one is used up, and when to come back if that helps."""

import httpx2
import pytest

from spacte_service import Settings, create_app
from spacte_service.keys import make_key, write_keys
from spacte_service.quota_settings import Quotas
from spacte_service.quotas import RollingCount

from .conftest import make_png


class Client:
    """A gateway with these quotas, and one of its callers."""

    def __init__(self, backend, folder, own=None, **quotas):
        self.secret, key = make_key("alice", "user", quotas=own)
        self.other, other = make_key("bob", "user")
        write_keys(folder / "keys.json", [key, other])
        settings = Settings(data_dir=folder / "data", keys_file=folder / "keys.json", in_process=True)
        self.app = create_app(settings.model_copy(update=quotas), backend)
        self.http = httpx2.AsyncClient(transport=httpx2.ASGITransport(app=self.app), base_url="http://testserver")

    async def ask(self, method, path, secret=None, **options):
        headers = {"Authorization": f"Bearer {secret or self.secret}"}
        return await self.http.request(method, path, headers=headers, **options)

    async def certify(self, n0=100, n=900, **options):
        fields = {"data": {"params": f'{{"n0": {n0}, "n": {n}}}'}, "files": {"image": make_png()}}
        return await self.ask("POST", "/v1/certify", **fields, **options)

    async def upload(self, data):
        return await self.ask("POST", "/v1/files", files={"file": ("d.png", data)})


@pytest.fixture
async def make_client(backend, tmp_path):
    clients = []

    def make(own=None, **quotas):
        clients.append(Client(backend, tmp_path, own, **quotas))
        return clients[-1]

    yield make
    for client in clients:
        await client.http.aclose()
        await client.app.state.gateway.jobs.stop()


def refused(answer, quota, *, later):
    assert (answer.status_code, answer.json()["code"], answer.json()["quota"]) == (429, "overloaded", quota), (
        answer.text
    )
    assert "quota" in answer.json()["detail"]
    assert ("retry-after" in answer.headers) == later
    return True


async def test_requests(make_client):
    client = make_client(quota_requests=2)
    for _ in range(2):
        assert (await client.ask("GET", "/v1/models")).status_code == 200
    answer = await client.ask("GET", "/v1/info")
    assert refused(answer, "requests", later=True)
    assert 59 <= int(answer.headers["retry-after"]) <= 62
    assert (await client.ask("GET", "/v1/models", client.other)).status_code == 200
    assert (await client.http.get("/livez")).status_code == 200


async def test_noises_count_as_they_are_drawn(make_client, backend):
    client = make_client(quota_noises=2_500)
    assert (await client.certify()).status_code == 200
    backend.fault = RuntimeError("broken")
    assert (await client.certify(n0=1, n=1)).status_code == 500
    backend.fault, backend.samplers = None, 0
    assert (await client.certify()).status_code == 503  # nothing was drawn
    backend.samplers = 1
    assert (await client.certify()).status_code == 200
    assert refused(await client.certify(), "noises", later=True)
    assert refused(await client.certify(n=10_000), "noises", later=False)  # never
    assert refused(await client.ask("POST", "/v1/certify/stream", files={"image": make_png()}), "noises", later=False)
    assert (await client.certify(n=300)).status_code == 200


async def test_bytes_of_uploads(make_client):
    sizes = [len(make_png(value)) for value in range(3)]
    client = make_client(quota_upload_bytes=sum(sizes) - 1)
    first = (await client.upload(make_png(0))).json()
    assert (await client.upload(make_png(1))).status_code == 200
    assert (await client.upload(make_png(0))).json() == first  # the same bytes are no more
    assert refused(await client.upload(make_png(2)), "upload_bytes", later=False)
    early = await client.ask("POST", "/v1/files", content=b"x" * 10_000)
    assert refused(early, "upload_bytes", later=False)
    assert (await client.ask("DELETE", f"/v1/files/{first['id']}")).status_code == 204
    assert (await client.upload(make_png(2))).status_code == 200


async def test_a_keys_own_quotas(make_client):
    own = Quotas(requests=None, noises=10)
    client = make_client(own, quota_requests=1, quota_noises=1_000_000, quota_jobs=3)
    limits = [(await client.ask("GET", "/v1/info")).json()["limits"] for _ in range(2)][-1]
    assert {name: most for name, most in limits.items() if "quota" in name} == {"quota_noises": 10, "quota_jobs": 3}
    assert refused(await client.certify(), "noises", later=False)
    assert (await client.ask("GET", "/v1/models", client.other)).status_code == 200
    assert refused(await client.ask("GET", "/v1/models", client.other), "requests", later=True)


def test_no_window_ever_holds_more_than_the_limit():
    """Amounts of 1 to 7 as often as they are let in, over ten windows."""
    count, limit, taken, now = RollingCount(60.0), 20, [], 0.0
    for step in range(6_000):
        amount = 1 + step % 7
        wait_s = count.take(amount, limit, now)
        if wait_s == 0:
            taken.append((now, amount))
            assert sum(each for at, each in taken if at > now - 60.0) <= limit
        else:
            assert wait_s <= 61.0
            assert RollingCount.take(count, 0, limit, now) == 0
        now += 0.1
    assert sum(each for _, each in taken) >= 9 * limit
    assert count.take(limit + 1, limit, now) == float("inf")


def test_after_the_time_that_was_said_it_fits():
    count = RollingCount(60.0)
    assert count.take(5, 5, 10.3) == 0
    wait_s = count.take(3, 5, 12.0)
    assert count.take(3, 5, 12.0 + wait_s - 0.01) > 0
    assert count.take(3, 5, 12.0 + wait_s) == 0
