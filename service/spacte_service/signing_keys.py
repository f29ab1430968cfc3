"""The keys that sign what the service answers: a file that its owner alone can read, and what is done with them.

A rotation makes a new key and erases the private part of the old one, whose public part stays: what it signed before
still verifies.
"""

import base64
import json
import os
import stat
from collections.abc import Mapping, Sequence
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
    load_pem_private_key,
)
from pydantic import BaseModel, ConfigDict, TypeAdapter, ValidationError

from spacte_client.signatures import CERTIFICATE, PAYLOAD_TYPE, key_id, pae, statement
from spacte_client.types import Certificate, Envelope, EnvelopeSignature, SigningKey
from spacte_core.files import replace_file

OTHERS = stat.S_IRWXG | stat.S_IRWXO
"""The permissions of everyone but the owner."""

ROOT = 0  # the user's number


class SigningKeysError(Exception):
    """The file of signing keys cannot be used; the message is one sentence that names the remedy."""


class StoredKey(BaseModel):
    """A key in the file; `private_key` is null once it is retired."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    keyid: str
    public_key: str
    private_key: str | None
    created_at: datetime
    retired_at: datetime | None = None

    @property
    def public(self) -> SigningKey:
        """What everyone may know of it."""
        return SigningKey.model_validate(self.model_dump(exclude={"private_key"}))


_KEYS = TypeAdapter(list[StoredKey])


def make_signing_key() -> StoredKey:
    """A new key."""
    private = Ed25519PrivateKey.generate()
    public = private.public_key()
    return StoredKey(
        keyid=key_id(public.public_bytes_raw()),
        public_key=public.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo).decode(),
        private_key=private.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()).decode(),
        created_at=datetime.now(UTC),
    )


def rotated(keys: Sequence[StoredKey]) -> list[StoredKey]:
    """The keys with a new one that signs; the others keep their public part alone."""
    now = datetime.now(UTC)
    gone = [key.model_copy(update={"private_key": None, "retired_at": key.retired_at or now}) for key in keys]
    return [*gone, make_signing_key()]


def read_signing_keys(path: Path) -> list[StoredKey]:
    """The keys of a file. Raises SigningKeysError: it is missing, damaged, or others can read it."""
    try:
        if _others_can_read(path.stat()):
            raise SigningKeysError(f"Others can read the signing keys {path}; run `chmod 600` on the file.")
        return _KEYS.validate_json(path.read_bytes())
    except FileNotFoundError:
        raise SigningKeysError(f"There is no file {path}; make one with `spacte keys signing create`.") from None
    except OSError as error:
        raise SigningKeysError(f"The signing keys {path} cannot be read ({error.strerror}).") from error
    except ValidationError as error:
        raise SigningKeysError(f"The signing keys {path} are damaged; restore the file.") from error


def _others_can_read(file: os.stat_result) -> bool:
    """Whether more than this process's user can.

    A secret that a container mounts is root's, and the container's user reads it as one of its group.
    """
    mounted = file.st_uid == ROOT != os.geteuid() and not file.st_mode & stat.S_IWGRP
    return bool(file.st_mode & (stat.S_IRWXO if mounted else OTHERS))


def write_signing_keys(path: Path, keys: Sequence[StoredKey]) -> None:
    """Replace the file at once, readable by its owner only."""
    path.parent.mkdir(parents=True, exist_ok=True)
    replace_file(path, _KEYS.dump_json(list(keys), indent=1), mode=0o600)


class Signer:
    """Signs with the last key of a file, and follows the file when keys are rotated.

    Without a file nothing is signed. Raises SigningKeysError: the file cannot be used.
    """

    def __init__(self, path: Path | None) -> None:
        self._path = path
        self._stamp: tuple[int, int, int] | None = None
        self._keys: list[StoredKey] = []
        self._private: Ed25519PrivateKey | None = None
        if path is not None:
            self._read(path)

    def public_keys(self) -> list[SigningKey]:
        """All public keys, the one that signs last."""
        self._follow()
        return [key.public for key in self._keys]

    def sign(self, predicate_type: str, predicate: Mapping[str, Any], digests: Mapping[str, str]) -> Envelope | None:
        """The envelope of an in-toto statement about subjects with these SHA-256; None without a key."""
        self._follow()
        if self._private is None:
            return None
        payload = statement(predicate_type, predicate, digests)
        signature = self._private.sign(pae(PAYLOAD_TYPE, payload))
        one = EnvelopeSignature(keyid=self._keys[-1].keyid, sig=base64.b64encode(signature).decode())
        return Envelope(payloadType=PAYLOAD_TYPE, payload=base64.b64encode(payload).decode(), signatures=[one])

    def signed(self, certificate: Certificate) -> Certificate:
        """A certificate with its signature, over all of its other fields."""
        if self._path is None:
            return certificate
        predicate = json.loads(certificate.model_dump_json(exclude={"signature"}))
        digests = {"image": certificate.image_sha256, f"model/{certificate.model}": certificate.model_version}
        return certificate.model_copy(update={"signature": self.sign(CERTIFICATE, predicate, digests)})

    def _follow(self) -> None:
        """Read the file again where it was replaced; while it cannot be read, the keys at hand go on signing."""
        if self._path is not None and _stamp_of(self._path) != self._stamp:
            with suppress(SigningKeysError):
                self._read(self._path)

    def _read(self, path: Path) -> None:
        stamp, keys = _stamp_of(path), read_signing_keys(path)
        text = keys[-1].private_key if keys else None
        if text is None:
            raise SigningKeysError(f"{path} holds no key that signs; make one with `spacte keys signing rotate`.")
        private = load_pem_private_key(text.encode(), None)
        if not isinstance(private, Ed25519PrivateKey):
            raise SigningKeysError(f"The signing key in {path} is not of the kind Ed25519; make one by the command.")
        self._stamp, self._keys, self._private = stamp, keys, private


def _stamp_of(path: Path) -> tuple[int, int, int] | None:
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_ino, found.st_size, found.st_mtime_ns
