"""API keys: made, stored as hashes in a file, listed and revoked."""

import hashlib
import secrets
from collections.abc import Iterable, Sequence
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from secrets import compare_digest
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError

from spacte_core.files import replace_file

from .quota_settings import Quotas

Scope = Literal["user", "admin"]
Name = Annotated[str, Field(min_length=1, max_length=64, pattern=r"^[A-Za-z0-9._-]+$")]


class KeysFileError(Exception):
    """The keys file cannot be used; the message is one sentence that names the remedy."""


class Key(BaseModel):
    """What is kept of a key. The key itself is shown once, when it is made.

    A key holds 256 random bits, so that a plain SHA-256 cannot be searched; no salt or slow hash is needed.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    id: str
    name: Name
    scope: Scope
    sha256: str = Field(pattern="^[0-9a-f]{64}$")
    created_at: datetime
    revoked_at: datetime | None = None
    project: Name | None = None  # the keys of one project share their files and jobs
    quotas: Quotas | None = None


_KEYS = TypeAdapter(list[Key])


def hash_of(secret: str) -> str:
    """What is stored for a key."""
    return hashlib.sha256(secret.encode()).hexdigest()


def make_key(name: str, scope: Scope, project: str | None = None, quotas: Quotas | None = None) -> tuple[str, Key]:
    """A new key and what to keep of it.

    Raises ValidationError: the name or the project has characters other than letters, digits, `.`, `_` and `-`.
    """
    secret = f"spacte_{secrets.token_urlsafe(32)}"
    key = Key(
        id=f"key_{secrets.token_hex(6)}",
        name=name,
        scope=scope,
        sha256=hash_of(secret),
        created_at=datetime.now(UTC),
        project=project,
        quotas=quotas,
    )
    return secret, key


def read_keys(path: Path) -> list[Key]:
    """The keys of a file. Raises KeysFileError: it is missing or damaged."""
    try:
        return _KEYS.validate_json(path.read_bytes())
    except FileNotFoundError:
        raise KeysFileError(f"There is no keys file {path}; make one with `spacte keys create NAME`.") from None
    except OSError as error:
        raise KeysFileError(f"The keys file {path} cannot be read ({error.strerror}).") from error
    except ValidationError as error:
        raise KeysFileError(f"The keys file {path} is damaged; restore it or make keys anew.") from error


def write_keys(path: Path, keys: Sequence[Key]) -> None:
    """Replace the file at once, readable by its owner only."""
    path.parent.mkdir(parents=True, exist_ok=True)
    replace_file(path, _KEYS.dump_json(list(keys), indent=1, exclude_unset=True), mode=0o600)


def keys_from_text(text: str) -> list[Key]:
    """Keys of an environment variable: `name:scope:sha256`, or with `:project` behind, separated by commas.

    Raises ValueError: it is not of that form.
    """
    keys: list[Key] = []
    for entry in filter(None, (part.strip() for part in text.split(","))):
        parts = entry.split(":")
        if len(parts) not in (3, 4):
            raise ValueError("write each key as name:scope:sha256[:project], as `spacte keys create --print` shows it")
        name, scope, digest, *projects = parts
        since = datetime.fromtimestamp(0, UTC)
        raw: dict[str, object] = {
            "id": f"key_{digest[:12]}",
            "name": name,
            "scope": scope,
            "sha256": digest,
            "created_at": since,
        }
        if projects:
            raw["project"] = projects[0]
        try:
            keys.append(Key.model_validate(raw))
        except ValidationError as error:
            raise ValueError(f"the key {name!r} has a wrong {error.errors()[0]['loc'][0]}") from None
    return keys


def find(keys: Iterable[Key], secret: str) -> Key | None:
    """The key that a caller sent. Each is compared, in constant time, so that timing tells nothing."""
    digest = hash_of(secret)
    found: Key | None = None
    for key in keys:
        if compare_digest(key.sha256, digest):
            found = key
    return found


class KeyRing:
    """The keys of the settings, and those of a file that is read again when it changes.

    Raises KeysFileError: the file is missing or damaged. Later on, a damaged file leaves the keys as they were.
    """

    def __init__(self, fixed: Sequence[Key], path: Path | None) -> None:
        self._fixed = list(fixed)
        self._path = path
        self._stamp = self._file_stamp()
        self._file = read_keys(path) if path else []

    def find(self, secret: str) -> Key | None:
        """The key that a caller sent, revoked or not."""
        return find(self._all(), secret)

    def is_valid(self, key: Key) -> bool:
        """Whether a key that was found is still there, neither revoked nor renewed."""
        return any(each.sha256 == key.sha256 and each.revoked_at is None for each in self._all())

    def _all(self) -> list[Key]:
        stamp = self._file_stamp()
        if self._path is not None and stamp != self._stamp:
            with suppress(KeysFileError):  # a revoked key must not become valid again because the file was lost
                self._file = read_keys(self._path)
            self._stamp = stamp
        return [*self._fixed, *self._file]

    def _file_stamp(self) -> tuple[int, int, int] | None:
        """Changes when the file does."""
        try:
            status = self._path.stat() if self._path else None
        except OSError:
            return None
        return status and (status.st_mtime_ns, status.st_size, status.st_ino)
