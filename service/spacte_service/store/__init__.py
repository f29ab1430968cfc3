"""What must outlive the gateway: uploaded files, jobs, their events, and answers to idempotent requests.

SQLite in the data folder by default, PostgreSQL by URL. `Store.open` brings the schema up to date by the
migrations in `migrations/`. Everything here blocks: call it in threads.
"""

from .engine import StoreError
from .store import Store

__all__ = ["Store", "StoreError"]
