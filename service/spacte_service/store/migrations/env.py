"""Run by Alembic: applies the migrations on the connection that `store.engine` hands over."""

from alembic import context

from spacte_service.store.schema import Base

connection = context.config.attributes["connection"]
context.configure(
    connection=connection,
    target_metadata=Base.metadata,
    render_as_batch=True,  # SQLite alters a table by making it anew
    transactional_ddl=True,
)
with context.begin_transaction():
    context.run_migrations()
connection.commit()
