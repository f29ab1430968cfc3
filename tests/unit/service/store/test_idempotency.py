"""Promise: a request with an Idempotency-Key is worked on once, and its answer is replayed."""

import threading
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta

import pytest
from sqlalchemy import select, update

from spacte_service.store import Store
from spacte_service.store.idempotency import Claim, InProgressError, MismatchError
from spacte_service.store.schema import IdempotencyRow

from .conftest import a_job


def test_an_idempotent_request_is_worked_on_once_and_replayed(store, other):
    claim = store.idempotency.claim("anna", "key", "fp")
    assert isinstance(claim, Claim)
    with pytest.raises(InProgressError):
        other.idempotency.claim("anna", "key", "fp")
    with pytest.raises(MismatchError):
        other.idempotency.claim("anna", "key", "other")
    assert isinstance(other.idempotency.claim("berta", "key", "other"), Claim)
    store.jobs.add(a_job(), claim, {"id": "job_0"})
    assert other.idempotency.claim("anna", "key", "fp") == {"id": "job_0"}
    with pytest.raises(MismatchError):
        other.idempotency.claim("anna", "key", "other")


def test_a_request_that_failed_may_be_sent_again(store):
    claim = store.idempotency.claim("anna", "key", "fp")
    store.idempotency.drop(claim)
    assert isinstance(store.idempotency.claim("anna", "key", "other"), Claim)


def older(store, by):
    with store.writing() as session:
        rows = session.scalars(select(IdempotencyRow)).all()
        for row in rows:
            session.execute(update(IdempotencyRow).values(created_at=row.created_at - by))


def test_a_gateway_that_died_at_work_is_succeeded_and_cannot_come_back(store):
    dead = store.idempotency.claim("anna", "key", "fp")
    older(store, timedelta(seconds=61))
    successor = store.idempotency.claim("anna", "key", "fp")
    with pytest.raises(InProgressError):
        store.jobs.add(a_job(0), dead, {"id": "job_0"})
    assert store.jobs.get("job_0") is None
    store.jobs.add(a_job(1), successor, {"id": "job_1"})
    store.idempotency.drop(dead)
    assert store.idempotency.claim("anna", "key", "fp") == {"id": "job_1"}


def test_answers_are_kept_for_a_day(store):
    claim = store.idempotency.claim("anna", "key", "fp")
    store.jobs.add(a_job(), claim, {"id": "job_0"})
    older(store, timedelta(hours=23))
    assert store.idempotency.claim("anna", "key", "fp") == {"id": "job_0"}
    older(store, timedelta(hours=2))
    assert isinstance(store.idempotency.claim("anna", "key", "other"), Claim)


def test_of_many_that_claim_at_once_one_works(url, store):
    stores = [Store.open(url) for _ in range(4)]
    barrier = threading.Barrier(4)

    def claim(each):
        barrier.wait()
        try:
            return each.idempotency.claim("anna", "key", "fp")
        except InProgressError:
            return None

    with ThreadPoolExecutor(4) as threads:
        claims = [claim for claim in threads.map(claim, stores) if claim is not None]
    for each in stores:
        each.close()
    assert len(claims) == 1
