"""Callers: whom a request is counted for, what they may do, and whose files and jobs they see."""

from collections.abc import Collection
from dataclasses import dataclass

from .keys import Key, Scope
from .quota_settings import Quotas

ANONYMOUS = "anonymous"
"""The owner of what is made where no key is asked for, and of what was made before the store knew owners."""


@dataclass(frozen=True, slots=True)
class Caller:
    """Somebody who sends requests."""

    id: str  # the key's, or the network address of a caller without one
    scope: Scope
    owner: str  # of what they make: their project, else their key
    quotas: Quotas
    key: Key | None = None  # None where none is asked for

    @property
    def sees(self) -> Collection[str] | None:
        """The owners whose files and jobs they see and change; None for all."""
        return None if self.scope == "admin" else {self.id, self.owner}


def anonymous(address: str, quotas: Quotas) -> Caller:
    """A caller where no key is asked for: then there is nobody to keep from anything."""
    return Caller(f"address:{address}", "admin", ANONYMOUS, quotas)


def holder_of(key: Key, quotas: Quotas) -> Caller:
    """Whoever sent a key; `quotas` are those of keys that have none of their own."""
    owner = key.id if key.project is None else f"project:{key.project}"
    return Caller(key.id, key.scope, owner, quotas if key.quotas is None else quotas.but(key.quotas), key)
