"""Ids of requests and answers: a prefix that says what it is, and 96 random bits; and pages of what has an id."""

import secrets
from collections.abc import Sequence
from typing import Any

import structlog


def new_id(prefix: str) -> str:
    """A fresh id such as `req_2f08...`."""
    return f"{prefix}_{secrets.token_hex(12)}"


def current_request_id() -> str:
    """The id of the request that is being answered; a new one where there is none."""
    return structlog.contextvars.get_contextvars().get("request_id") or new_id("req")


def page_info(rows: Sequence[Any], more: bool) -> dict[str, Any]:
    """What a page says of itself: whether there are more entries, and the ids of its first and last one."""
    first, last = (rows[0].id, rows[-1].id) if rows else (None, None)
    return {"has_more": more, "first_id": first, "last_id": last}
