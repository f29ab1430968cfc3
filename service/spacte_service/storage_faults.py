"""A database that is away, locked or full, and a disk that takes no more: 503 or 507, and a time to come back."""

import errno
import sys
from typing import Any

from .problems import ProblemError

FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
CLOSED = (errno.EROFS, errno.EACCES, errno.EPERM, errno.EIO)
AGAIN_S = 10.0  # `Retry-After`; chosen: a database is started again in seconds, and an operator frees a disk in minutes
REASON_LENGTH = 200  # of a database's words; chosen: a line


def storage_problem(error: BaseException) -> ProblemError | None:
    """The problem of an error of database or disk; None of any other error.

    SQLAlchemy is looked up and not imported: where it was never needed, the error is none of its own.
    """
    if isinstance(error, OSError):
        storage: Any = sys.modules.get("spacte_workers.batch.object_store")
        if storage is not None and isinstance(error, storage.StorageError):
            return ProblemError("store_unavailable", f"{error} Then try again.", retry_after_s=AGAIN_S)
        if error.errno in FULL:
            return _full()
        return _away(f"The disk cannot be used ({error.strerror})") if error.errno in CLOSED else None
    engine: Any = sys.modules.get("spacte_service.store.engine")
    if engine is not None and isinstance(error, engine.StoreError):
        return ProblemError("store_unavailable", str(error), retry_after_s=AGAIN_S)
    exceptions: Any = sys.modules.get("sqlalchemy.exc")
    if exceptions is None or not isinstance(error, exceptions.SQLAlchemyError):
        return None
    if isinstance(error, exceptions.TimeoutError):
        return _away("The database has no free connection")
    faults = (exceptions.OperationalError, exceptions.InterfaceError, exceptions.InternalError)
    if not (isinstance(error, faults) or getattr(error, "connection_invalidated", False)):
        return None
    return _of_database(getattr(error, "orig", None))


def _of_database(error: Any) -> ProblemError:
    reason = next(iter(str(error).strip().splitlines()), "no answer")[:REASON_LENGTH].rstrip(".")
    if getattr(error, "sqlstate", None) == "53100" or "disk is full" in reason:  # PostgreSQL's `disk_full`; SQLite
        return _full()
    if "locked" in reason:
        return _away("Another program holds the database's lock")
    if "readonly" in reason or "read-only" in reason:
        return _away("The database is read-only")
    return _away("The database does not answer")


def _full() -> ProblemError:
    return ProblemError(
        "storage_full",
        "The service's disk is full; have the operator free some, then try again.",
        retry_after_s=AGAIN_S,
    )


def _away(what: str) -> ProblemError:
    return ProblemError("store_unavailable", f"{what}; try again in a moment.", retry_after_s=AGAIN_S)
