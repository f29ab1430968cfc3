"""Signatures: the DSSE envelope of an in-toto statement, and the public keys that verify it."""

from datetime import datetime

from pydantic import Field

from ._base import AnswerModel

__all__ = ["Envelope", "EnvelopeSignature", "SigningKey", "SigningKeyList"]


class EnvelopeSignature(AnswerModel):
    """One signature of an envelope."""

    keyid: str = Field(description="The id of the key, as in `GET /v1/signing-keys`.")
    sig: str = Field(description="The Ed25519 signature, in base64.")


class Envelope(AnswerModel):
    """A signed statement, as DSSE has it: `in-toto` and `securesystemslib` read it."""

    payloadType: str = Field(description="`application/vnd.in-toto+json`.")
    payload: str = Field(description="The statement as JSON, in base64.")
    signatures: list[EnvelopeSignature] = Field(description="Over the type and the payload (DSSE's PAE).")


class SigningKey(AnswerModel):
    """A public key of the service."""

    keyid: str = Field(description="SHA-256 over the key, as securesystemslib computes it.")
    public_key: str = Field(description="The Ed25519 public key as PEM.")
    created_at: datetime = Field(description="When it was made, UTC.")
    retired_at: datetime | None = Field(
        default=None, description="When another key took its place; what it signed before still verifies."
    )


class SigningKeyList(AnswerModel):
    """Answer of `GET /v1/signing-keys`."""

    data: list[SigningKey] = Field(description="All keys, the one that signs now last; empty where nothing is signed.")
