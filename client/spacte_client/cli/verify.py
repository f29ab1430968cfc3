"""`spacte verify` where the workers are not installed: the signature alone, offline."""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from spacte_client.signatures import PublicKey

verify_app = typer.Typer(add_completion=False)


@verify_app.command("verify")
def verify(
    certificate: Annotated[Path, typer.Argument(metavar="CERT.json", help="A signed certificate; - reads stdin.")],
    key: Annotated[Path, typer.Option("--key", metavar="PUBLIC", help="The service's public keys as PEM.")],
    as_json: Annotated[bool, typer.Option("--json", help="Findings as JSON.")] = False,
) -> None:
    """Check the signature of a certificate, offline; exit status 1 where it does not fit.

    `pip install spacte-workers` adds the check of what its numbers prove.
    """
    text, keys = read_text(certificate), public_keys(key)
    findings = signature_findings(text, keys)
    if as_json:
        typer.echo(json.dumps({"fits": not findings, "findings": findings}))
    else:
        for finding in findings:
            typer.echo(finding)
        if not findings:
            typer.echo("The signature fits: the certificate is as the service made it.")
    if findings:
        raise typer.Exit(1)


def signature_findings(text: str, keys: "list[PublicKey]") -> list[str]:
    """What of a certificate is not as it was signed."""
    from spacte_client.signatures import SignatureError, check_certificate, strict_json

    try:
        return check_certificate(strict_json(text), keys)
    except SignatureError as error:
        return [str(error)]


def public_keys(path: Path) -> "list[PublicKey]":
    """The public keys of a PEM file."""
    from spacte_client.signatures import read_public_keys

    try:
        return read_public_keys(path.read_bytes())
    except OSError as error:
        raise typer.TyperException(f"{path} cannot be read ({error.strerror}); name the PEM file.") from error


def read_text(path: Path) -> str:
    """The text of a file, or of standard input."""
    try:
        return typer.get_text_stream("stdin").read() if str(path) == "-" else path.read_text()
    except (OSError, UnicodeDecodeError) as error:
        raise typer.TyperException(f"{path} cannot be read ({error}); name a certificate's JSON file.") from error
