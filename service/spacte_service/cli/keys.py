"""`spacte keys`: make, list and revoke API keys in a file that the gateway reads."""

from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from spacte_service.keys import Key

keys_app = typer.Typer(
    help="Make, list and revoke the API keys of a gateway.", no_args_is_help=True, add_completion=False
)

KeysFile = Annotated[
    Path, typer.Option("--keys-file", envvar="SPACTE_KEYS_FILE", help="The file that the gateway is given.")
]
DEFAULT = Path("spacte-keys.json")


@keys_app.command()
def create(
    name: Annotated[str, typer.Argument(help="Whose key it is: letters, digits, `.`, `_` and `-`.")],
    *,
    admin: Annotated[bool, typer.Option("--admin", help="Let it load and unload models, too.")] = False,
    show: Annotated[
        bool, typer.Option("--print", help="Write no file; print the entry for SPACTE_API_KEYS instead.")
    ] = False,
    keys_file: KeysFile = DEFAULT,
) -> None:
    """Make a key and print it. It is shown this once; the file holds its hash."""
    from pydantic import ValidationError

    from spacte_service.keys import make_key, write_keys

    try:
        secret, key = make_key(name, "admin" if admin else "user")
    except ValidationError:
        raise typer.TyperException(
            "A key's name has 1 to 64 letters, digits, `.`, `_` or `-`; choose such a name."
        ) from None
    if show:
        typer.echo(f"SPACTE_API_KEYS entry: {key.name}:{key.scope}:{key.sha256}", err=True)
    else:
        keys = _read(keys_file) if keys_file.exists() else []
        if any(other.name == name and other.revoked_at is None for other in keys):
            raise typer.TyperException(f"There is a key {name} already; revoke it first, or choose another name.")
        write_keys(keys_file, [*keys, key])
        typer.echo(f"{key.id} written to {keys_file}; the gateway takes it with --keys-file.", err=True)
    typer.echo(secret)


@keys_app.command("list")
def list_keys(keys_file: KeysFile = DEFAULT) -> None:
    """List the keys: id, name, scope, since when, and whether they were revoked."""
    for key in _read(keys_file):
        state = f"revoked {key.revoked_at:%Y-%m-%d}" if key.revoked_at else "valid"
        typer.echo(f"{key.id}  {key.name}  {key.scope}  {key.created_at:%Y-%m-%d}  {state}")


@keys_app.command()
def revoke(key: Annotated[str, typer.Argument(help="The key's id or name.")], keys_file: KeysFile = DEFAULT) -> None:
    """Revoke a key. A gateway that runs refuses it from its next request on."""
    from spacte_service.keys import write_keys

    keys = _read(keys_file)
    found = [each for each in keys if key in (each.id, each.name) and each.revoked_at is None]
    if not found:
        raise typer.TyperException(f"There is no valid key {key} in {keys_file}; `spacte keys list` shows them.")
    now = datetime.now(UTC)
    write_keys(keys_file, [each.model_copy(update={"revoked_at": now}) if each in found else each for each in keys])
    typer.echo(f"Revoked {', '.join(each.id for each in found)}.", err=True)


def _read(path: Path) -> "list[Key]":
    from spacte_service.keys import KeysFileError, read_keys

    try:
        return read_keys(path)
    except KeysFileError as error:
        raise typer.TyperException(str(error)) from None
