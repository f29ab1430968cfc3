"""Owners of files and jobs.

Whose an old file is nobody knows: it is the administrators'. A job of the last day whose request had an
`Idempotency-Key` is the key's that made it.
"""

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None

UNKNOWN = "anonymous"
NAMES = {"uq": "uq_%(table_name)s_%(column_0_name)s"}
"""What SQLite's constraint without a name is called while its table is made anew."""


def upgrade() -> None:
    """Add the columns; the same bytes may be a file of several owners from now on."""
    for table in ("files", "jobs"):
        with op.batch_alter_table(table) as batch:
            batch.add_column(sa.Column("owner", sa.String(80), nullable=False, server_default=UNKNOWN))
            batch.add_column(sa.Column("caller", sa.String(255), nullable=False, server_default=UNKNOWN))
    one_file_an_owner()
    with op.batch_alter_table("jobs") as batch:
        batch.alter_column("owner", server_default=None)
        batch.alter_column("caller", server_default=None)
        batch.create_index("jobs_owner", ["owner"])
        batch.create_index("jobs_caller", ["caller"])
    take_owners_from_repeatable_requests()


def one_file_an_owner() -> None:
    """Make bytes unique for each owner, and no longer at all."""
    unique = sa.inspect(op.get_bind()).get_unique_constraints("files")
    name = next(each["name"] for each in unique if each["column_names"] == ["sha256"]) or "uq_files_sha256"
    with op.batch_alter_table("files", naming_convention=NAMES) as batch:
        batch.alter_column("owner", server_default=None)
        batch.alter_column("caller", server_default=None)
        batch.drop_constraint(name, type_="unique")
        batch.create_unique_constraint("files_owner_sha256", ["owner", "sha256"])
        batch.create_index("files_sha256", ["sha256"])


def take_owners_from_repeatable_requests() -> None:
    """Give the jobs of kept answers to the keys whose requests they answer."""
    jobs = sa.table("jobs", sa.column("id"), sa.column("owner"), sa.column("caller"))
    kept = sa.table("idempotency", sa.column("caller"), sa.column("answer", sa.JSON))
    connection = op.get_bind()
    answered = sa.select(kept.c.caller, kept.c.answer).where(kept.c.caller.startswith("key_", autoescape=True))
    for caller, answer in connection.execute(answered).all():
        if answer and "id" in answer:
            made = jobs.update().where(jobs.c.id == answer["id"])
            connection.execute(made.values(owner=caller, caller=caller))


def downgrade() -> None:
    """Drop the columns."""
    with op.batch_alter_table("files") as batch:
        batch.drop_index("files_sha256")
        batch.drop_constraint("files_owner_sha256", type_="unique")
        batch.drop_column("owner")
        batch.drop_column("caller")
        batch.create_unique_constraint("files_sha256_key", ["sha256"])
    with op.batch_alter_table("jobs") as batch:
        batch.drop_index("jobs_owner")
        batch.drop_index("jobs_caller")
        batch.drop_column("owner")
        batch.drop_column("caller")
