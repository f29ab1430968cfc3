"""The job whose certificates a job carries over."""

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Add the column; older jobs have no base job."""
    with op.batch_alter_table("jobs") as batch:
        batch.add_column(sa.Column("base", sa.JSON, nullable=True))


def downgrade() -> None:
    """Forget the base jobs."""
    with op.batch_alter_table("jobs") as batch:
        batch.drop_column("base")
