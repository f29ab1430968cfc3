"""The store as a whole: one database and its tables."""

from collections.abc import Generator
from contextlib import contextmanager

from sqlalchemy import Engine, text
from sqlalchemy.orm import Session

from .engine import open_engine
from .files import Files
from .idempotency import Idempotency
from .jobs import Jobs


class Store:
    """One database: uploaded files, jobs with their events, and requests that their senders may repeat."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self.files = Files(self.reading, self.writing)
        self.jobs = Jobs(self.reading, self.writing)
        self.idempotency = Idempotency(self.reading, self.writing)

    @classmethod
    def open(cls, url: str) -> "Store":
        """Open a database and bring its schema up to date. Raises StoreError: it cannot be used."""
        return cls(open_engine(url))

    def close(self) -> None:
        """Close every connection."""
        self._engine.dispose()

    def check_writable(self) -> None:
        """Write what changes nothing. Raises SQLAlchemyError: the database is away, locked, full or read-only."""
        with self.writing() as session:
            session.execute(text("UPDATE alembic_version SET version_num = version_num"))

    @contextmanager
    def reading(self) -> Generator[Session]:
        """A transaction that sees one state of the database."""
        with self._engine.connect() as connection, Session(connection, expire_on_commit=False) as session:
            yield session

    @contextmanager
    def writing(self) -> Generator[Session]:
        """A transaction that is kept if no error is raised."""
        with self._engine.connect() as connection:
            connection = connection.execution_options(writes=True)
            with Session(connection, expire_on_commit=False) as session, session.begin():
                yield session
