"""The tables. A change here needs a migration in `migrations/versions`; a test compares the two."""

from datetime import UTC, datetime
from typing import Any

from sqlalchemy import (
    JSON,
    BigInteger,
    DateTime,
    Dialect,
    ForeignKey,
    Index,
    Integer,
    String,
    TypeDecorator,
    UniqueConstraint,
)
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

Number = BigInteger().with_variant(Integer, "sqlite")
"""A 64-bit counter; SQLite counts by itself only in a column that is called INTEGER."""


CODE_LENGTH, DETAIL_LENGTH = 64, 2000  # of a job's error; chosen: a sentence is seldom longer than 300


class Utc(TypeDecorator[datetime]):
    """A time with its zone, UTC, also where the database keeps no zones."""

    impl = DateTime(timezone=True)
    cache_ok = True

    def process_bind_param(self, value: datetime | None, dialect: Dialect) -> datetime | None:  # noqa: ARG002
        """What is written."""
        return None if value is None else value.astimezone(UTC)

    def process_result_value(self, value: datetime | None, dialect: Dialect) -> datetime | None:  # noqa: ARG002
        """What is read."""
        return None if value is None else (value if value.tzinfo else value.replace(tzinfo=UTC)).astimezone(UTC)


class Base(DeclarativeBase):
    """All tables."""


class FileRow(Base):
    """An uploaded file; its bytes are in the data folder under their SHA-256, once for all owners.

    `owner` is a project or a key, whose holders see it; `caller` is the one who made it. So it is with jobs.
    """

    __tablename__ = "files"
    __table_args__ = (UniqueConstraint("owner", "sha256", name="files_owner_sha256"), Index("files_sha256", "sha256"))

    number: Mapped[int] = mapped_column(Number, primary_key=True, autoincrement=True)
    id: Mapped[str] = mapped_column(String(40), unique=True)
    owner: Mapped[str] = mapped_column(String(80))
    caller: Mapped[str] = mapped_column(String(255))
    sha256: Mapped[str] = mapped_column(String(64))
    bytes: Mapped[int] = mapped_column(BigInteger)
    kind: Mapped[str] = mapped_column(String(16))
    filename: Mapped[str | None] = mapped_column(String(255))
    created_at: Mapped[datetime] = mapped_column(Utc)


class JobRow(Base):
    """A batch job.

    `attempt` counts its drivers, and `submission_id` names the latest one on the cluster; `claimed_at` is
    when a gateway took it upon itself to submit that one. `results_sha256` is the hash of the last line of
    its results, when they had as many as are counted. `base` is the job whose certificates it carries over, as
    `spacte_workers.batch.base_job.BaseJob` has it. `seq` is the number of the latest event.
    """

    __tablename__ = "jobs"
    __table_args__ = (
        Index("jobs_state", "state"),
        Index("jobs_file", "file_id"),
        Index("jobs_owner", "owner"),
        Index("jobs_caller", "caller"),
    )

    number: Mapped[int] = mapped_column(Number, primary_key=True, autoincrement=True)
    id: Mapped[str] = mapped_column(String(40), unique=True)
    owner: Mapped[str] = mapped_column(String(80))
    caller: Mapped[str] = mapped_column(String(255))
    state: Mapped[str] = mapped_column(String(16))
    model: Mapped[str] = mapped_column(String(255))
    model_version: Mapped[str] = mapped_column(String(64))
    checkpoint: Mapped[str] = mapped_column(String(4096))
    precision: Mapped[str] = mapped_column(String(8))
    input: Mapped[dict[str, Any]] = mapped_column(JSON)
    source: Mapped[dict[str, Any]] = mapped_column(JSON)
    file_id: Mapped[str | None] = mapped_column(ForeignKey("files.id", ondelete="SET NULL"))
    params: Mapped[dict[str, Any]] = mapped_column(JSON)
    seed: Mapped[str] = mapped_column(String(32))
    notes: Mapped[dict[str, str]] = mapped_column(JSON)
    created_at: Mapped[datetime] = mapped_column(Utc)
    started_at: Mapped[datetime | None] = mapped_column(Utc)
    ended_at: Mapped[datetime | None] = mapped_column(Utc)
    changed_at: Mapped[datetime] = mapped_column(Utc)
    error_code: Mapped[str | None] = mapped_column(String(CODE_LENGTH))
    error_detail: Mapped[str | None] = mapped_column(String(DETAIL_LENGTH))
    attempt: Mapped[int] = mapped_column(Integer, default=1)
    submission_id: Mapped[str] = mapped_column(String(64))
    claimed_at: Mapped[datetime | None] = mapped_column(Utc)
    total: Mapped[int] = mapped_column(BigInteger)
    certified: Mapped[int] = mapped_column(BigInteger, default=0)
    abstained: Mapped[int] = mapped_column(BigInteger, default=0)
    errored: Mapped[int] = mapped_column(BigInteger, default=0)
    results_sha256: Mapped[str | None] = mapped_column(String(64))
    base: Mapped[dict[str, Any] | None] = mapped_column(JSON(none_as_null=True))
    seq: Mapped[int] = mapped_column(BigInteger, default=0)

    @property
    def done(self) -> int:
        """Images finished."""
        return self.certified + self.abstained + self.errored


class EventRow(Base):
    """Something that happened to a job."""

    __tablename__ = "job_events"

    job_id: Mapped[str] = mapped_column(ForeignKey("jobs.id", ondelete="CASCADE"), primary_key=True)
    seq: Mapped[int] = mapped_column(BigInteger, primary_key=True)
    event: Mapped[str] = mapped_column(String(16))
    data: Mapped[dict[str, Any]] = mapped_column(JSON)
    at: Mapped[datetime] = mapped_column(Utc)


class IdempotencyRow(Base):
    """A request that its sender may repeat. `answer` is null while the first is being worked on."""

    __tablename__ = "idempotency"
    __table_args__ = (Index("idempotency_created", "created_at"),)

    caller: Mapped[str] = mapped_column(String(255), primary_key=True)
    key: Mapped[str] = mapped_column(String(255), primary_key=True)
    fingerprint: Mapped[str] = mapped_column(String(64))
    token: Mapped[str] = mapped_column(String(32))
    created_at: Mapped[datetime] = mapped_column(Utc)
    answer: Mapped[dict[str, Any] | None] = mapped_column(JSON(none_as_null=True))
