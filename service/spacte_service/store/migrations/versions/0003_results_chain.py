"""The hash of the last line of a job's results, as its driver wrote it."""

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Add the column; of older jobs nothing is known."""
    with op.batch_alter_table("jobs") as batch:
        batch.add_column(sa.Column("results_sha256", sa.String(64), nullable=True))


def downgrade() -> None:
    """Forget the hashes."""
    with op.batch_alter_table("jobs") as batch:
        batch.drop_column("results_sha256")
