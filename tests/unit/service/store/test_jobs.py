"""Promise: of jobs nothing is lost, and several gateways agree on each."""

import threading
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta

import pytest
from sqlalchemy import update

from spacte_service.store import Store
from spacte_service.store.schema import JobRow
from spacte_service.store.sessions import CursorError

from .conftest import NOW, a_job

COUNTS = {"certified": 3, "abstained": 1, "errored": 0}
PACE = {"images_per_minute": 60.0, "eta_s": 56.0}


def test_a_job_comes_back_as_it_went(store, other):
    store.jobs.add(a_job())
    row = other.jobs.get("job_0")
    assert row.created_at == NOW
    assert row.created_at.tzinfo is not None
    assert (row.params, row.notes, row.state, row.ended_at) == ({"n": 100}, {"note": "ü"}, "queued", None)
    assert other.jobs.get("job_1") is None
    assert [event.data["state"] for event in other.jobs.events("job_0", -1)] == ["queued"]


def test_pages_are_newest_first_and_filtered(store):
    for number in range(5):
        store.jobs.add(a_job(number, state="failed" if number % 2 else "queued"))
    page, more = store.jobs.page(2, None, None)
    assert ([row.id for row in page], more) == (["job_4", "job_3"], True)
    page, more = store.jobs.page(3, "job_3", None)
    assert ([row.id for row in page], more) == (["job_2", "job_1", "job_0"], False)
    page, more = store.jobs.page(5, None, ["failed"])
    assert ([row.id for row in page], more) == (["job_3", "job_1"], False)
    with pytest.raises(CursorError):
        store.jobs.page(5, "job_9", None)


def test_of_two_gateways_one_moves_a_job(store, other):
    store.jobs.add(a_job())
    seen, seen_too = store.jobs.get("job_0"), other.jobs.get("job_0")
    assert store.jobs.move(seen, "running", started_at=NOW).state == "running"
    assert other.jobs.move(seen_too, "cancelled") is None
    assert other.jobs.get("job_0").state == "running"
    assert [event.data["state"] for event in other.jobs.events("job_0", 0)] == ["running"]


def test_many_gateways_at_once_move_a_job_once(url, store):
    store.jobs.add(a_job())
    stores = [Store.open(url) for _ in range(4)]
    barrier = threading.Barrier(4)

    def move(each):
        row = each.jobs.get("job_0")
        barrier.wait()
        return each.jobs.move(row, "running")

    with ThreadPoolExecutor(4) as threads:
        moved = [row for row in threads.map(move, stores) if row is not None]
    for each in stores:
        each.close()
    assert len(moved) == 1
    assert [event.seq for event in store.jobs.events("job_0", -1)] == [0, 1]


def test_of_two_gateways_one_submits_a_job_and_a_dead_one_is_succeeded(store, other):
    store.jobs.add(a_job())
    assert store.jobs.claim(store.jobs.get("job_0"))
    assert not other.jobs.claim(other.jobs.get("job_0"))
    for away_s in (-31, 31):  # the second: the clock was set back since
        with store.writing() as session:
            session.execute(update(JobRow).values(claimed_at=datetime.now(UTC) + timedelta(seconds=away_s)))
        assert other.jobs.claim(other.jobs.get("job_0"))
    store.jobs.move(store.jobs.get("job_0"), "running")
    assert not store.jobs.claim(store.jobs.get("job_0"))


def test_jobs_past_their_time(store):
    store.jobs.add(a_job(0, state="succeeded", ended_at=NOW))
    store.jobs.add(a_job(1, state="running"))
    assert store.jobs.expired(NOW + timedelta(days=1)) == ["job_0"]
    assert store.jobs.expired(NOW) == []


def test_errors_come_and_go_with_the_state(store):
    store.jobs.add(a_job())
    row = store.jobs.move(store.jobs.get("job_0"), "failed", error=("internal", "It broke."))
    assert (row.error_code, row.error_detail) == ("internal", "It broke.")
    assert row.ended_at is not None
    row = store.jobs.move(row, "queued", attempt=2, submission_id="job_0-2")
    assert (row.error_code, row.ended_at, row.attempt) == (None, None, 2)
    events = store.jobs.events("job_0", 0)
    assert [event.data["error"] for event in events] == [{"code": "internal", "detail": "It broke."}, None]
    assert store.jobs.move(store.jobs.get("job_0"), "running").attempt == 2


def test_progress_only_grows_and_is_said_once(store, other):
    store.jobs.add(a_job(state="running"))
    row = store.jobs.get("job_0")
    assert store.jobs.progress(row, COUNTS, PACE)
    assert not other.jobs.progress(row, COUNTS, PACE)
    assert not other.jobs.progress(row, COUNTS | {"certified": 2}, PACE)
    assert other.jobs.progress(row, COUNTS | {"certified": 7}, PACE)
    row = store.jobs.get("job_0")
    assert (row.certified, row.abstained, row.done) == (7, 1, 8)
    events = store.jobs.events("job_0", 0)
    assert [(event.seq, event.event) for event in events] == [(2, "progress")]
    assert events[0].data["counts"] == {"total": 60, "certified": 7, "abstained": 1, "errored": 0, "remaining": 52}


def test_only_a_job_at_its_end_is_deleted_and_its_events_with_it(store):
    store.jobs.add(a_job())
    assert not store.jobs.remove("job_0")
    store.jobs.move(store.jobs.get("job_0"), "cancelled")
    assert store.jobs.remove("job_0")
    assert store.jobs.get("job_0") is None
    assert store.jobs.events("job_0", -1) == []


def test_active_jobs_and_counts(store):
    for number, state in enumerate(["succeeded", "interrupted", "queued", "failed", "running", "running"]):
        store.jobs.add(a_job(number, state=state))
    assert [row.id for row in store.jobs.active()] == ["job_1", "job_2", "job_4", "job_5"]
    assert store.jobs.by_state() == {"succeeded": 1, "interrupted": 1, "queued": 1, "failed": 1, "running": 2}


def test_the_words_of_a_driver_fit(store):
    store.jobs.add(a_job())
    row = store.jobs.move(store.jobs.get("job_0"), "failed", error=("internal\0", "\0" + "x" * 5_000))
    assert (row.error_code, row.error_detail) == ("internal", "x" * 2_000)
