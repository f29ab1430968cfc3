"""API keys, and how much one may take."""

from pathlib import Path
from typing import Self

from pydantic import field_validator, model_validator

from spacte_service.keys import Key, keys_from_text
from spacte_service.quota_settings import Quotas

from .group import CountOrNone, Group


class AccessSettings(Group):
    """Who may use the service."""

    keys_file: Path | None = None
    """File of API keys, made by `spacte keys create`; with it every caller needs a key."""
    api_keys: str | None = None
    """API keys as name:scope:sha256 or name:scope:sha256:project, separated by commas, where no file
    can be mounted."""
    allow_anonymous: bool = False
    """Let anyone who can reach the port use the service and administer it, without a key."""

    signing_keys_file: Path | None = None
    """File of signing keys, made by `spacte keys signing create`; with it certificates and jobs are signed."""

    quota_requests: CountOrNone = None
    """Requests that one key (or address) may send in a minute; by default any number, as for the
    following. A key in --keys-file may have quotas of its own."""
    quota_noises: CountOrNone = None
    """Noises that one key may have drawn in an hour; a job counts when it is made, with all it may draw."""
    quota_upload_bytes: CountOrNone = None
    """Bytes of uploaded files that one key may keep."""
    quota_jobs: CountOrNone = None
    """Jobs of one key that may be unfinished at the same time."""
    quota_streams: CountOrNone = None
    """Streams that one key may have open: proofs, results and events of jobs."""

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
    def quotas(self) -> Quotas:
        """The quotas of keys that have none of their own."""
        return Quotas(**{name: getattr(self, f"quota_{name}") for name in Quotas.model_fields})

    @property
    def fixed_keys(self) -> list[Key]:
        """The keys that were given as text."""
        return keys_from_text(self.api_keys or "")
