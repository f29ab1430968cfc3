"""The same request with the same key makes one job."""

import asyncio


async def test_an_idempotent_request_makes_one_job(world):
    first = await world.create(headers={"Idempotency-Key": "k"})
    again = await world.create(headers={"Idempotency-Key": "k"})
    assert again.status_code == 201
    assert again.json() == first.json()
    assert again.headers["idempotency-replayed"] == "true"
    assert "idempotency-replayed" not in first.headers
    other = await world.create(headers={"Idempotency-Key": "k"}, params={"n": 7})
    assert (other.status_code, other.json()["code"]) == (422, "idempotency_mismatch")
    assert len((await world.http.get("/v1/jobs")).json()["data"]) == 1


async def test_the_same_key_twice_at_once_makes_one_job(world):
    answers = await asyncio.gather(*(world.create(headers={"Idempotency-Key": "k"}) for _ in range(6)))
    made = {answer.json()["id"] for answer in answers if answer.status_code == 201}
    assert len(made) == 1
    others = {answer.json()["code"] for answer in answers if answer.status_code != 201}
    assert others <= {"idempotency_in_progress"}
    assert len((await world.http.get("/v1/jobs")).json()["data"]) == 1


async def test_a_refused_request_may_be_sent_again_with_its_key(world):
    bad = await world.create(headers={"Idempotency-Key": "k"}, model="nothing")
    assert bad.status_code == 404
    assert (await world.create(headers={"Idempotency-Key": "k"})).status_code == 201


async def test_a_key_that_cannot_be_kept_is_refused_as_everywhere(world):
    answer = await world.create(headers={"Idempotency-Key": "k" * 256})
    assert (answer.status_code, answer.json()["code"]) == (400, "bad_request")
    assert answer.json()["detail"] == "Make the Idempotency-Key 1 to 255 visible ASCII characters."
