"""API keys."""

from pathlib import Path
from typing import Self

from pydantic import field_validator, model_validator

from spacte_service.keys import Key, keys_from_text

from .group import Group


class AccessSettings(Group):
    """Who may use the service."""

    keys_file: Path | None = None
    """File of API keys, made by `spacte keys create`; with it every caller needs a key."""
    api_keys: str | None = None
    """API keys as name:scope:sha256, separated by commas, where no file can be mounted."""
    allow_anonymous: bool = False
    """Let anyone who can reach the port use the service and administer it, without a key."""

    @field_validator("api_keys")
    @classmethod
    def _keys_can_be_read(cls, text: str | None) -> str | None:
        keys_from_text(text or "")
        return text

    @model_validator(mode="after")
    def _is_either_closed_or_open(self) -> Self:
        if self.has_keys and self.allow_anonymous:
            raise ValueError("API keys and --allow-anonymous contradict each other; leave out one of them")
        return self

    @property
    def has_keys(self) -> bool:
        """Whether the operator gave API keys."""
        return bool(self.keys_file or self.api_keys)

    @property
    def fixed_keys(self) -> list[Key]:
        """The keys that were given as text."""
        return keys_from_text(self.api_keys or "")
