"""Files, jobs, their events, and idempotent requests."""

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None

NUMBER = sa.BigInteger().with_variant(sa.Integer, "sqlite")
TIME = sa.DateTime(timezone=True)


def upgrade() -> None:
    """Make the tables."""
    make_files_and_jobs()
    make_events_and_idempotency()


def make_files_and_jobs() -> None:
    """Files, and jobs that refer to them."""
    op.create_table(
        "files",
        sa.Column("number", NUMBER, primary_key=True, autoincrement=True),
        sa.Column("id", sa.String(40), nullable=False, unique=True),
        sa.Column("sha256", sa.String(64), nullable=False, unique=True),
        sa.Column("bytes", sa.BigInteger, nullable=False),
        sa.Column("kind", sa.String(16), nullable=False),
        sa.Column("filename", sa.String(255)),
        sa.Column("created_at", TIME, nullable=False),
    )
    op.create_table(
        "jobs",
        sa.Column("number", NUMBER, primary_key=True, autoincrement=True),
        sa.Column("id", sa.String(40), nullable=False, unique=True),
        sa.Column("state", sa.String(16), nullable=False),
        sa.Column("model", sa.String(255), nullable=False),
        sa.Column("model_version", sa.String(64), nullable=False),
        sa.Column("checkpoint", sa.String(4096), nullable=False),
        sa.Column("precision", sa.String(8), nullable=False),
        sa.Column("input", sa.JSON, nullable=False),
        sa.Column("source", sa.JSON, nullable=False),
        sa.Column("file_id", sa.String(40), sa.ForeignKey("files.id", ondelete="SET NULL")),
        sa.Column("params", sa.JSON, nullable=False),
        sa.Column("seed", sa.String(32), nullable=False),
        sa.Column("notes", sa.JSON, nullable=False),
        sa.Column("created_at", TIME, nullable=False),
        sa.Column("started_at", TIME),
        sa.Column("ended_at", TIME),
        sa.Column("changed_at", TIME, nullable=False),
        sa.Column("error_code", sa.String(64)),
        sa.Column("error_detail", sa.String(2000)),
        sa.Column("attempt", sa.Integer, nullable=False),
        sa.Column("submission_id", sa.String(64), nullable=False),
        sa.Column("claimed_at", TIME),
        sa.Column("total", sa.BigInteger, nullable=False),
        sa.Column("certified", sa.BigInteger, nullable=False),
        sa.Column("abstained", sa.BigInteger, nullable=False),
        sa.Column("errored", sa.BigInteger, nullable=False),
        sa.Column("seq", sa.BigInteger, nullable=False),
    )
    op.create_index("jobs_state", "jobs", ["state"])
    op.create_index("jobs_file", "jobs", ["file_id"])


def make_events_and_idempotency() -> None:
    """Events of jobs, and repeatable requests."""
    op.create_table(
        "job_events",
        sa.Column("job_id", sa.String(40), sa.ForeignKey("jobs.id", ondelete="CASCADE"), primary_key=True),
        sa.Column("seq", sa.BigInteger, primary_key=True),
        sa.Column("event", sa.String(16), nullable=False),
        sa.Column("data", sa.JSON, nullable=False),
        sa.Column("at", TIME, nullable=False),
    )
    op.create_table(
        "idempotency",
        sa.Column("caller", sa.String(255), primary_key=True),
        sa.Column("key", sa.String(255), primary_key=True),
        sa.Column("fingerprint", sa.String(64), nullable=False),
        sa.Column("token", sa.String(32), nullable=False),
        sa.Column("created_at", TIME, nullable=False),
        sa.Column("answer", sa.JSON(none_as_null=True)),
    )
    op.create_index("idempotency_created", "idempotency", ["created_at"])


def downgrade() -> None:
    """Drop the tables."""
    for name in ("idempotency", "job_events", "jobs", "files"):
        op.drop_table(name)
