"""`spacte keys signing`: make, list and rotate the keys that sign certificates."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from spacte_service.signing_keys import StoredKey

signing_app = typer.Typer(help="Make, list and rotate the keys that sign certificates.", no_args_is_help=True)

SigningFile = Annotated[
    Path,
    typer.Option(
        "--signing-keys-file", envvar="SPACTE_SIGNING_KEYS_FILE", help="The file that the gateway is given; keep it."
    ),
]
DEFAULT = Path("spacte-signing-keys.json")


@signing_app.command()
def create(signing_keys_file: SigningFile = DEFAULT) -> None:
    """Make the first signing key and print its public key as PEM. Only the file's owner can read the file."""
    from spacte_service.signing_keys import make_signing_key, write_signing_keys

    if signing_keys_file.exists():
        raise typer.TyperException(f"{signing_keys_file} holds signing keys already; use `spacte keys signing rotate`.")
    key = make_signing_key()
    write_signing_keys(signing_keys_file, [key])
    typer.echo(
        f"{key.keyid[:16]} written to {signing_keys_file}; the gateway takes the file with the same option.", err=True
    )
    typer.echo(key.public_key, nl=False)


@signing_app.command("list")
def list_keys(
    signing_keys_file: SigningFile = DEFAULT,
    pem: Annotated[bool, typer.Option("--pem", help="The public keys as PEM, for `spacte verify --key`.")] = False,
) -> None:
    """List the keys: id, since when, and whether it signs or is retired. Private keys are never shown."""
    for key in _read(signing_keys_file):
        if pem:
            typer.echo(key.public_key, nl=False)
            continue
        state = f"retired {key.retired_at:%Y-%m-%d}" if key.retired_at else "signs"
        typer.echo("  ".join([key.keyid, f"{key.created_at:%Y-%m-%d}", state]))


@signing_app.command()
def rotate(signing_keys_file: SigningFile = DEFAULT) -> None:
    """Make a new key that signs from now on, and print its public key.

    The old private key is erased; its public key stays, so that what it signed verifies. A gateway that runs follows.
    """
    from spacte_service.signing_keys import rotated, write_signing_keys

    keys = rotated(_read(signing_keys_file))
    write_signing_keys(signing_keys_file, keys)
    typer.echo(f"{keys[-1].keyid[:16]} signs from now on.", err=True)
    typer.echo(keys[-1].public_key, nl=False)


def _read(path: Path) -> "list[StoredKey]":
    from spacte_service.signing_keys import SigningKeysError, read_signing_keys

    try:
        return read_signing_keys(path)
    except SigningKeysError as error:
        raise typer.TyperException(str(error)) from None
