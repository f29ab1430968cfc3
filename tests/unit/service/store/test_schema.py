"""Promise: a store is made, migrated and opened as one, whichever database it is, and a wrong one is said."""

import subprocess
import sys

import pytest
from sqlalchemy import text

from spacte_service.store import Store, StoreError
from spacte_service.store.engine import migrations_config, open_engine
from spacte_service.store.schema import Base

from .conftest import NOW, a_job


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


def test_a_store_without_owners_gets_them(url):
    """What is in it stays; a job of a kept answer is its key's, and everything else the administrators'."""
    import sqlalchemy as sa
    from alembic import command

    engine = open_engine(url)
    with engine.connect() as connection:
        command.downgrade(migrations_config(connection), "base")
        command.upgrade(migrations_config(connection), "0001")
    tables = sa.MetaData()
    tables.reflect(engine)
    job = {name: value for name, value in a_job().__dict__.items() if name in tables.tables["jobs"].columns}
    stored = {"id": "file_0", "sha256": "0" * 64, "bytes": 5, "kind": "npz", "created_at": NOW}
    answer = {"caller": "key_alice", "key": "k", "fingerprint": "f", "token": "", "created_at": NOW}
    with engine.begin() as connection:
        connection.execute(tables.tables["files"].insert().values(stored))
        for name in ("job_0", "job_1"):
            connection.execute(tables.tables["jobs"].insert().values(job | {"id": name, "file_id": "file_0"}))
        connection.execute(tables.tables["idempotency"].insert().values(answer | {"answer": {"id": "job_1"}}))
    engine.dispose()
    store = Store.open(url)
    assert [row.owner for row in store.jobs.page(9, None, None)[0]] == ["key_alice", "anonymous"]
    assert {row.file_id for row in store.jobs.page(9, None, None)[0]} == {"file_0"}
    assert store.files.get("file_0").owner == "anonymous"
    assert store.files.get("file_0", {"key_alice"}) is None
    assert [row.id for row in store.jobs.page(9, None, None, {"key_alice"})[0]] == ["job_1"]
    with store.writing() as session, pytest.raises(sa.exc.IntegrityError):
        session.execute(sa.text("UPDATE jobs SET file_id = 'file_9'"))  # references are looked after again
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
assert store.jobs.by_state() == {}
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
