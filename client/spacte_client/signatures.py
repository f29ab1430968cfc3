"""Checks what a service has signed, offline: DSSE envelopes of in-toto statements, Ed25519.

Needs the extra `verify` (the package `cryptography`). Formats: DSSE 1.0.2, in-toto Statement v1.
"""

import base64
import binascii
import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from decimal import Decimal
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, cast

from ._exceptions import InvalidArgumentError

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

PAYLOAD_TYPE = "application/vnd.in-toto+json"
STATEMENT_TYPE = "https://in-toto.io/Statement/v1"
CERTIFICATE = "urn:spacte:certificate:1"
JOB = "urn:spacte:job:1"
"""Predicate types: the whole certificate; a job with its summary, and the digests of its results."""

JOB_FIELDS = frozenset({"outcome", "index", "custom_id", "true_label", "correct", "input_sha256", "signature"})
"""What stands beside the certificate's fields in a line of results, or beside all of them."""


class SignatureError(ValueError):
    """Something is not what was signed; the message is one sentence."""


class PublicKey(NamedTuple):
    """A key that verifies, and the id by which signatures name it."""

    keyid: str
    key: "Ed25519PublicKey"


def key_id(raw: bytes) -> str:
    """The id of an Ed25519 public key, as securesystemslib computes it: SHA-256 over its canonical JSON."""
    described = {"keytype": "ed25519", "keyval": {"public": raw.hex()}, "scheme": "ed25519"}
    return hashlib.sha256(json.dumps(described, sort_keys=True, separators=(",", ":")).encode()).hexdigest()


def read_public_keys(pem: bytes) -> list[PublicKey]:
    """The Ed25519 public keys of a PEM text, of which there may be several, one after the other.

    Raises:
        InvalidArgumentError: there is none, or another kind of key.
    """
    try:
        from cryptography.hazmat.primitives import serialization
        from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
    except ImportError:
        raise InvalidArgumentError("Signatures need cryptography: pip install 'spacte-client[verify]'.") from None
    end = b"-----END PUBLIC KEY-----"
    keys: list[PublicKey] = []
    for block in pem.split(end)[:-1]:
        try:
            key = serialization.load_pem_public_key(block.lstrip() + end)
        except ValueError as error:
            raise InvalidArgumentError("The file holds no public key that can be read: pass the PEM.") from error
        if not isinstance(key, Ed25519PublicKey):
            raise InvalidArgumentError("The public key is not of the kind Ed25519: pass the service's.")
        keys.append(PublicKey(key_id(key.public_bytes_raw()), key))
    if not keys:
        raise InvalidArgumentError(
            "There is no public key in the file: pass what `spacte keys signing list --pem` prints."
        )
    return keys


def pae(payload_type: str, payload: bytes) -> bytes:
    """What is signed: DSSE's pre-authentication encoding."""
    kind = payload_type.encode()
    return b"DSSEv1 %d %b %d %b" % (len(kind), kind, len(payload), payload)


def statement(predicate_type: str, predicate: Mapping[str, Any], digests: Mapping[str, str]) -> bytes:
    """An in-toto statement as canonical JSON; `digests` are the subjects' SHA-256 by their names."""
    subjects = [{"name": name, "digest": {"sha256": digest}} for name, digest in digests.items()]
    value = {"_type": STATEMENT_TYPE, "subject": subjects, "predicateType": predicate_type, "predicate": predicate}
    return json.dumps(value, sort_keys=True, separators=(",", ":")).encode()


def opened(envelope: Any, keys: Iterable[PublicKey], predicate_type: str) -> dict[str, Any]:
    """The statement of an envelope that one of the keys has signed.

    Raises:
        SignatureError: it was signed by none of them, was changed, or is about something else.
    """
    from cryptography.exceptions import InvalidSignature

    # Nothing may be there that the signature does not cover, lest two files that differ be the same.
    kind, payload_text, signatures = _fields(envelope, "payloadType", "payload", "signatures")
    if not (isinstance(signatures, list) and len(cast("list[Any]", signatures)) == 1):
        raise SignatureError("signature: there is not exactly one.")
    keyid, sig = _fields(signatures[0], "keyid", "sig")
    payload, signature = _exact_base64(payload_text), _exact_base64(sig)
    key = next((each.key for each in keys if each.keyid == keyid), None)
    if key is None:
        raise SignatureError(f"signature: the key {str(keyid)[:16]} is none of those given.")
    try:
        key.verify(signature, pae(str(kind), payload))
    except InvalidSignature:
        raise SignatureError("signature: it does not fit what was signed.") from None
    found = strict_json(payload)
    if kind != PAYLOAD_TYPE or found.get("_type") != STATEMENT_TYPE:
        raise SignatureError("signature: what was signed is no in-toto statement.")
    if found.get("predicateType") != predicate_type:
        raise SignatureError("signature: what was signed is of another kind.")
    return found


def check_certificate(record: Mapping[str, Any], keys: Sequence[PublicKey]) -> list[str]:
    """What of a certificate is not as it was signed, one sentence a point; empty where all is.

    Args:
        record: the certificate, or a line of results, as `strict_json` reads it.
        keys: those that may have signed it.
    """
    if record.get("signature") is None:
        return ["signature: there is none."]
    try:
        signed = opened(record["signature"], keys, CERTIFICATE)
    except SignatureError as error:
        return [str(error)]
    predicate: dict[str, Any] = signed["predicate"]
    names = sorted((set(predicate) | set(record)) - JOB_FIELDS)
    missing = object()
    return [
        f"{name}: it is not what was signed."
        for name in names
        if not same_json(record.get(name, missing), predicate.get(name, missing))
    ]


def strict_json(text: bytes | str) -> dict[str, Any]:
    """A JSON object with exact numbers.

    Raises:
        SignatureError: it is none, or could be read in two ways.
    """
    try:
        found = json.loads(text, parse_float=_number, parse_constant=_no_constant, object_pairs_hook=_once)
    except (ValueError, RecursionError) as error:
        raise SignatureError(f"This is not JSON as the service sends it ({error}).") from error
    if not isinstance(found, dict):
        raise SignatureError("This is no JSON object.")
    return cast("dict[str, Any]", found)


def sha256_of(path: Path) -> str:
    """The SHA-256 of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def same_json(one: Any, other: Any) -> bool:
    """Whether two JSON values are the same; numbers by value, but truth values are no numbers."""
    if isinstance(one, dict) and isinstance(other, dict):
        first, second = cast("dict[str, Any]", one), cast("dict[str, Any]", other)
        return first.keys() == second.keys() and all(same_json(first[name], second[name]) for name in first)
    if isinstance(one, list) and isinstance(other, list):
        here, there = cast("list[Any]", one), cast("list[Any]", other)
        return len(here) == len(there) and all(map(same_json, here, there))
    return isinstance(one, bool) == isinstance(other, bool) and one == other


def _fields(value: Any, *names: str) -> list[Any]:
    """The fields of an object that has these and no others."""
    found = cast("dict[str, Any]", value) if isinstance(value, dict) else {}
    if set(found) != set(names):
        raise SignatureError(f"signature: it is no DSSE envelope, which has {', '.join(names)} there and nothing else.")
    return [found[name] for name in names]


def _number(text: str) -> Decimal:
    if "E" in text:
        raise ValueError("a number with a capital E")
    return Decimal(text)


def _no_constant(name: str) -> Any:
    raise ValueError(name)


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError("a name stands there twice")
    return found


def _exact_base64(text: Any) -> bytes:
    """The bytes of base64 in its one canonical form."""
    try:
        found = binascii.a2b_base64(str(text), strict_mode=True)
    except (binascii.Error, ValueError):
        raise SignatureError("signature: it is not plain base64.") from None
    if base64.b64encode(found).decode() != text:
        raise SignatureError("signature: its base64 is not in canonical form.")
    return found
