"""Ids of requests and answers: a prefix that says what it is, and 96 random bits."""

import secrets


def new_id(prefix: str) -> str:
    """A fresh id such as `req_2f08...`."""
    return f"{prefix}_{secrets.token_hex(12)}"
