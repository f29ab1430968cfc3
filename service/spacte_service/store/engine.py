"""Opens the database: SQLite in WAL mode, or PostgreSQL; then brings its schema up to date."""

import fcntl
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from alembic import command
from alembic.config import Config
from sqlalchemy import Connection, Engine, create_engine, event, text
from sqlalchemy.engine import URL, make_url
from sqlalchemy.exc import ArgumentError, NoSuchModuleError, OperationalError

from spacte_workers.errors import RuntimeFault

MIGRATIONS = Path(__file__).parent / "migrations"
BUSY_MS = 5_000  # a writer waits so long for another one; chosen: far above any transaction here
ANSWER_S = 5  # in which PostgreSQL must have answered; chosen: it is on a local network
POOL_SIZE = 10  # connections to PostgreSQL: the threads of requests, and some of the reconciler's
MIGRATION_LOCK = 0x5350_4143  # any number of our own ("SPAC"), for PostgreSQL's advisory locks


class StoreError(RuntimeFault):
    """The database cannot be used; the message is one sentence that names the remedy."""


def open_engine(url: str) -> Engine:
    """Connect, and migrate to the newest schema. Several gateways may start at once.

    Args:
        url: `sqlite:///path` or `postgresql://user:password@host/database`.

    Raises StoreError: no such database, or one of a newer version.
    """
    parsed = _parse(url)
    sqlite = parsed.get_backend_name() == "sqlite"
    pooled: dict[str, Any] = {"pool_pre_ping": True, "pool_size": POOL_SIZE}
    pooled["connect_args"] = {
        "client_encoding": "utf8",  # also of a database that was made without one
        "connect_timeout": ANSWER_S,
        "tcp_user_timeout": 1000 * ANSWER_S,
    }
    pooled["pool_timeout"] = ANSWER_S
    engine = create_engine(parsed, **({} if sqlite else pooled))
    if sqlite:
        _configure_sqlite(engine)
    try:
        with _one_at_a_time(engine), engine.connect() as connection, _without_foreign_keys(connection):
            _migrate(connection)
    except OperationalError as error:
        engine.dispose()
        where = parsed.render_as_string(hide_password=True)
        sentence = f"The database {where} cannot be opened ({_reason(error)}): check the URL and that it runs."
        raise StoreError(sentence) from error
    except OSError as error:
        engine.dispose()
        where = parsed.render_as_string(hide_password=True)
        sentence = f"The folder of {where} cannot be written ({error.strerror}): free space, or name another folder."
        raise StoreError(sentence) from error
    except BaseException:
        engine.dispose()
        raise
    return engine


def _parse(url: str) -> URL:
    try:
        parsed = make_url(url)
        backend = parsed.get_backend_name()
    except (ArgumentError, NoSuchModuleError) as error:
        raise StoreError("The database URL cannot be read: write sqlite:///PATH or postgresql://...") from error
    if backend == "postgresql":
        return parsed.set(drivername="postgresql+psycopg")
    if backend == "sqlite" and parsed.database and parsed.database != ":memory:":
        try:
            Path(parsed.database).parent.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise StoreError(f"The folder of {parsed.database} cannot be made: {error.strerror}.") from error
        return parsed
    raise StoreError(
        f"Databases of kind {url.partition(':')[0]!r} are not used here: write sqlite:///PATH or postgresql://..."
    )


def _configure_sqlite(engine: Engine) -> None:
    @event.listens_for(engine, "connect")
    def on_connect(connection: Any, _: Any) -> None:
        connection.isolation_level = None  # the driver begins no transactions of its own: `on_begin` does
        for pragma in (
            f"busy_timeout = {BUSY_MS}",
            "journal_mode = WAL",
            "synchronous = FULL",  # a job that was acknowledged is there after a power cut
            "foreign_keys = ON",
        ):
            connection.execute(f"PRAGMA {pragma}").close()

    @event.listens_for(engine, "begin")
    def on_begin(connection: Connection) -> None:
        # A transaction that will write takes the lock at once: having read, it could not wait for it.
        writes = connection.get_execution_options().get("writes", False)
        connection.exec_driver_sql("BEGIN IMMEDIATE" if writes else "BEGIN")


@contextmanager
def _one_at_a_time(engine: Engine) -> Generator[None]:
    """Keep other gateways from migrating at the same moment."""
    if engine.dialect.name == "sqlite":
        with Path(f"{engine.url.database}.lock").open("w") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            yield
    else:
        with engine.connect() as connection:
            connection.execute(text("SELECT pg_advisory_lock(:n)"), {"n": MIGRATION_LOCK})
            try:
                yield
            finally:
                connection.execute(text("SELECT pg_advisory_unlock(:n)"), {"n": MIGRATION_LOCK})


@contextmanager
def _without_foreign_keys(connection: Connection) -> Generator[None]:
    """Let SQLite make a table anew without touching the rows that refer to the old one."""
    raw: Any = connection.connection.driver_connection
    if connection.dialect.name != "sqlite":
        yield
        return
    raw.execute("PRAGMA foreign_keys = OFF").close()
    try:
        yield
    finally:
        connection.rollback()  # the switch is without effect within a transaction
        raw.execute("PRAGMA foreign_keys = ON").close()


def migrations_config(connection: Connection | None = None) -> Config:
    """Alembic's view of the migrations."""
    config = Config()
    config.set_main_option("script_location", str(MIGRATIONS))
    config.attributes["connection"] = connection
    return config


def _migrate(connection: Connection) -> None:
    from alembic.runtime.migration import MigrationContext
    from alembic.script import ScriptDirectory

    config = migrations_config(connection)
    known = {script.revision for script in ScriptDirectory.from_config(config).walk_revisions()}
    now = MigrationContext.configure(connection).get_current_revision()
    connection.rollback()
    if now is not None and now not in known:
        raise StoreError(f"The database is of a newer version ({now}): run the software that made it, or a newer one.")
    command.upgrade(config, "head")


def _reason(error: OperationalError) -> str:
    return str(error.orig).strip().splitlines()[0].rstrip(".")[:200]
