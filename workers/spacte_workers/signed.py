"""The signatures of what `spacte verify` is given: of certificates, or of a bundle as a whole."""

from pathlib import Path

import typer

from spacte_client.bundles import CERTIFICATES, check_bundle
from spacte_client.signatures import PublicKey, SignatureError, check_certificate, read_public_keys, strict_json


def certificates_in(path: Path) -> Path:
    """The file of certificates: the path itself, or that of a bundle."""
    return path / CERTIFICATES if path.is_dir() else path


def unsigned(path: Path, text: str, key: Path) -> list[str]:
    """What is not as the service signed it, one sentence a point.

    Args:
        path: a bundle's folder, or anything else.
        text: a certificate, or one a line.
        key: a file of public keys as PEM.
    """
    try:
        keys = read_public_keys(key.read_bytes())
    except OSError as error:
        raise typer.TyperException(f"{key} cannot be read ({error.strerror}); name the PEM file.") from error
    if path.is_dir():
        return check_bundle(path, keys)
    one = _findings(text, keys)
    lines = [line for line in text.splitlines() if line.strip()]
    if len(lines) < 2 or not one or not lines[0].rstrip().endswith("}"):
        return one
    return [f"line {i}: {finding}" for i, line in enumerate(lines, 1) for finding in _findings(line, keys)]


def _findings(text: str, keys: list[PublicKey]) -> list[str]:
    try:
        return check_certificate(strict_json(text), keys)
    except SignatureError as error:
        return [str(error)]
