"""Promises of the store, each on SQLite and on PostgreSQL: nothing is lost, and several gateways agree."""

import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta

import pytest
from sqlalchemy import select, text, update

from spacte_service.store import Store, StoreError
from spacte_service.store.engine import migrations_config, open_engine
from spacte_service.store.files import FileInUseError
from spacte_service.store.idempotency import Claim, InProgressError, MismatchError
from spacte_service.store.jobs import FileGoneError
from spacte_service.store.schema import Base, FileRow, IdempotencyRow, JobRow
from spacte_service.store.sessions import CursorError

NOW = datetime(2026, 1, 2, 3, 4, 5, 678901, UTC)


@pytest.fixture(params=["sqlite", pytest.param("postgres", marks=pytest.mark.postgres)])
def url(request, tmp_path):
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path}/sub/spacte.sqlite"
    return request.getfixturevalue("postgres_url")


@pytest.fixture
def store(url):
    store = Store.open(url)
    yield store
    store.close()


@pytest.fixture
def other(url, store):
    """The same database, seen by another gateway."""
    other = Store.open(url)
    yield other
    other.close()


def a_job(number=0, **changes):
    values = {
        "id": f"job_{number}",
        "state": "queued",
        "model": "digits",
        "model_version": "0" * 64,
        "checkpoint": "/models/digits",
        "precision": "fp32",
        "input": {"type": "dataset", "name": "digits"},
        "source": {"kind": "dataset"},
        "file_id": None,
        "params": {"n": 100},
        "seed": "0" * 32,
        "notes": {"note": "ü"},
        "created_at": NOW,
        "changed_at": NOW,
        "attempt": 1,
        "submission_id": f"job_{number}-1",
        "total": 60,
        "certified": 0,
        "abstained": 0,
        "errored": 0,
        "seq": 0,
    }
    return JobRow(**(values | changes))


def a_file(number=0):
    return FileRow(
        id=f"file_{number}", sha256=f"{number:064}", bytes=5, kind="npz", filename=None, created_at=NOW
    )


COUNTS = {"certified": 3, "abstained": 1, "errored": 0}
PACE = {"images_per_minute": 60.0, "eta_s": 56.0}


def test_the_migrations_make_the_schema_that_the_code_uses(url):
    from alembic.autogenerate import compare_metadata
    from alembic.runtime.migration import MigrationContext

    engine = open_engine(url)
    with engine.connect() as connection:
        assert compare_metadata(MigrationContext.configure(connection), Base.metadata) == []
    engine.dispose()


def test_migrations_can_be_undone_and_done_again(url):
    from alembic import command

    engine = open_engine(url)
    with engine.connect() as connection:
        command.downgrade(migrations_config(connection), "base")
    engine.dispose()
    store = Store.open(url)
    store.jobs.add(a_job())
    store.close()


def test_a_database_of_a_newer_version_is_left_alone(url):
    engine = open_engine(url)
    with engine.begin() as connection:
        connection.execute(text("UPDATE alembic_version SET version_num = '9999'"))
    engine.dispose()
    with pytest.raises(StoreError, match="newer version"):
        Store.open(url)


OPENER = """
import sys
from spacte_service.store import Store
store = Store.open(sys.argv[1])
assert store.check() == "ok"
store.close()
"""


@pytest.mark.postgres
def test_a_database_without_an_encoding(postgres_server):
    import psycopg

    with psycopg.connect(host=postgres_server, user="spacte", dbname="postgres", autocommit=True) as admin:
        admin.execute("CREATE DATABASE plain ENCODING 'SQL_ASCII' LOCALE 'C' TEMPLATE template0")
    store = Store.open(f"postgresql://spacte@/plain?host={postgres_server}")
    job = a_job()
    job.notes = {"who": "Zoë"}
    store.jobs.add(job)
    assert store.jobs.get("job_0").notes == {"who": "Zoë"}
    store.close()


@pytest.mark.slow
def test_gateways_that_start_at_once_migrate_once(url):
    command = [sys.executable, "-c", OPENER, url]
    gateways = [subprocess.Popen(command, stderr=subprocess.PIPE, text=True) for _ in range(3)]
    for gateway in gateways:
        _, errors = gateway.communicate(timeout=60)
        assert (gateway.returncode, errors) == (0, "")


@pytest.mark.parametrize(
    ("url", "sentence"),
    [
        ("nonsense", "cannot be read"),
        ("mysql://host/db", "are not used here|cannot be read"),
        ("sqlite://", "are not used here"),
        ("postgresql://user:secret@127.0.0.1:1/db", "cannot be opened"),
        ("sqlite:////proc/nothing/db", "cannot be made"),
    ],
)
def test_a_wrong_url_is_one_sentence_without_the_password(url, sentence):
    with pytest.raises(StoreError, match=sentence) as refused:
        Store.open(url)
    assert "\n" not in str(refused.value)
    assert "secret" not in str(refused.value)


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
    page, more = store.jobs.page(5, None, "failed")
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
    with store.writing() as session:
        session.execute(update(JobRow).values(claimed_at=datetime.now(UTC) - timedelta(seconds=31)))
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
    assert events[0].data["counts"] == {
        "total": 60,
        "certified": 7,
        "abstained": 1,
        "errored": 0,
        "remaining": 52,
    }


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


def test_the_same_bytes_are_one_file(store, other):
    assert store.files.add(a_file()).id == "file_0"
    again = a_file()
    again.id = "file_again"
    assert other.files.add(again).id == "file_0"
    store.files.add(a_file(1))
    page, more = store.files.page(1, None)
    assert ([row.id for row in page], more) == (["file_1"], True)
    page, more = store.files.page(1, "file_1")
    assert ([row.id for row in page], more) == (["file_0"], False)
    with pytest.raises(CursorError):
        store.files.page(1, "file_9")


@pytest.mark.parametrize("state", ["queued", "running", "cancelling", "interrupted"])
def test_a_file_that_a_job_needs_stays(store, state):
    store.files.add(a_file())
    store.jobs.add(a_job(file_id="file_0", state=state))
    with pytest.raises(FileInUseError, match="job_0"):
        store.files.remove("file_0", lambda row: None)
    store.jobs.move(store.jobs.get("job_0"), "succeeded")
    assert store.files.remove("file_0", lambda row: None).id == "file_0"
    assert store.files.remove("file_0", lambda row: None) is None
    assert store.jobs.get("job_0").file_id is None


def test_a_job_on_a_file_that_is_gone_is_not_written_down(store):
    with pytest.raises(FileGoneError):
        store.jobs.add(a_job(file_id="file_0"))
    assert store.jobs.get("job_0") is None


def test_deleting_a_file_while_a_job_comes_to_use_it(url, store):
    """Whoever is first wins, and never is there a job without its file."""
    for number in range(8):
        store.files.add(a_file(number))
        barrier = threading.Barrier(2)

        def remove(number=number, barrier=barrier):
            barrier.wait()
            try:
                return store.files.remove(f"file_{number}", lambda row: None) is not None
            except FileInUseError:
                return False

        def add(number=number, barrier=barrier):
            barrier.wait()
            try:
                store.jobs.add(a_job(number, file_id=f"file_{number}"))
            except FileGoneError:
                return False
            return True

        with ThreadPoolExecutor(2) as threads:
            removed, added = threads.submit(remove), threads.submit(add)
            assert removed.result() != added.result()
        if added.result():
            assert store.jobs.get(f"job_{number}").file_id == f"file_{number}"


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
