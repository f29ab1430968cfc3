"""A store on SQLite and on PostgreSQL, and what the tests put into it."""

from datetime import UTC, datetime

import pytest

from spacte_service.store import Store
from spacte_service.store.schema import FileRow, JobRow

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
        "owner": "anonymous",
        "caller": "address:127.0.0.1",
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


def a_file(number=0, **changes):
    values = {
        "id": f"file_{number}",
        "owner": "anonymous",
        "caller": "address:127.0.0.1",
        "sha256": f"{number:064}",
        "bytes": 5,
        "kind": "npz",
        "filename": None,
        "created_at": NOW,
    }
    return FileRow(**(values | changes))
