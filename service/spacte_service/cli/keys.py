"""`spacte keys`: make, list, change and revoke API keys in a file that the gateway reads."""

from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from .signing import signing_app

if TYPE_CHECKING:
    from spacte_service.keys import Key
    from spacte_service.quota_settings import Quotas

keys_app = typer.Typer(
    help="Make, list and revoke the API keys of a gateway.", no_args_is_help=True, add_completion=False
)

keys_app.add_typer(signing_app, name="signing")

KeysFile = Annotated[
    Path, typer.Option("--keys-file", envvar="SPACTE_KEYS_FILE", help="The file that the gateway is given.")
]
DEFAULT = Path("spacte-keys.json")
Project = Annotated[
    str | None, typer.Option("--project", help="The keys of one project see and change the same files and jobs.")
]
OwnQuotas = Annotated[
    list[str] | None,
    typer.Option(
        "--quota",
        metavar="NAME=MOST",
        help="Instead of the gateway's --quota-NAME: requests=60, noises=1000000, upload_bytes=..., jobs=..., "
        "streams=...; NAME=none for any amount. Can be repeated.",
    ),
]
NAMES = "A name or project has 1 to 64 letters, digits, `.`, `_` or `-`; choose such a name."


@keys_app.command()
def create(
    name: Annotated[str, typer.Argument(help="Whose key it is: letters, digits, `.`, `_` and `-`.")],
    *,
    admin: Annotated[bool, typer.Option("--admin", help="Let it load and unload models, too.")] = False,
    show: Annotated[
        bool, typer.Option("--print", help="Write no file; print the entry for SPACTE_API_KEYS instead.")
    ] = False,
    project: Project = None,
    quota: OwnQuotas = None,
    keys_file: KeysFile = DEFAULT,
) -> None:
    """Make a key and print it. It is shown this once; the file holds its hash."""
    from pydantic import ValidationError

    from spacte_service.keys import make_key, write_keys

    try:
        secret, key = make_key(name, "admin" if admin else "user", project, _quotas(quota))
    except ValidationError:
        raise typer.TyperException(NAMES) from None
    if show:
        if quota:
            raise typer.TyperException("An entry holds no quotas: leave out --quota, or write the key to a file.")
        entry = ":".join(filter(None, (key.name, key.scope, key.sha256, key.project)))
        typer.echo(f"SPACTE_API_KEYS entry: {entry}", err=True)
    else:
        keys = _read(keys_file) if keys_file.exists() else []
        if any(other.name == name and other.revoked_at is None for other in keys):
            raise typer.TyperException(f"There is a key {name} already; revoke it first, or choose another name.")
        write_keys(keys_file, [*keys, key])
        typer.echo(f"{key.id} written to {keys_file}; the gateway takes it with --keys-file.", err=True)
    typer.echo(secret)


@keys_app.command("list")
def list_keys(keys_file: KeysFile = DEFAULT) -> None:
    """List the keys: id, name, scope, since when, whether they were revoked, project and own quotas."""
    for key in _read(keys_file):
        state = f"revoked {key.revoked_at:%Y-%m-%d}" if key.revoked_at else "valid"
        more = [] if key.project is None else [f"project={key.project}"]
        if key.quotas is not None:
            own = key.quotas.model_dump(exclude_unset=True)
            more += [f"{name}={'none' if most is None else most}" for name, most in own.items()]
        typer.echo("  ".join([key.id, key.name, key.scope, f"{key.created_at:%Y-%m-%d}", state, *more]))


@keys_app.command()
def revoke(key: Annotated[str, typer.Argument(help="The key's id or name.")], keys_file: KeysFile = DEFAULT) -> None:
    """Revoke a key. A gateway that runs refuses it from its next request on."""
    from spacte_service.keys import write_keys

    keys, found = _find(key, keys_file)
    gone = found.model_copy(update={"revoked_at": datetime.now(UTC)})
    write_keys(keys_file, [gone if each is found else each for each in keys])
    typer.echo(f"Revoked {found.id}.", err=True)


@keys_app.command()
def change(
    key: Annotated[str, typer.Argument(help="The key's id or name.")],
    *,
    project: Project = None,
    quota: OwnQuotas = None,
    renew: Annotated[bool, typer.Option("--renew", help="Give it a new secret; the old one ends.")] = False,
    keys_file: KeysFile = DEFAULT,
) -> None:
    """Change a key's project or quotas, or renew it; what it owns stays its own. A gateway that runs follows."""
    from pydantic import ValidationError

    from spacte_service.keys import make_key, write_keys

    keys, found = _find(key, keys_file)
    secret, other = make_key(found.name, found.scope)
    changes: dict[str, Any] = {}
    if project is not None:
        changes["project"] = project
    if quota:
        changes["quotas"] = _quotas(quota)
    if renew:
        changes["sha256"] = other.sha256
    try:
        changed = type(found).model_validate(found.model_copy(update=changes).model_dump(exclude_unset=True))
    except ValidationError:
        raise typer.TyperException(NAMES) from None
    write_keys(keys_file, [changed if each is found else each for each in keys])
    typer.echo(f"{changed.id} changed in {keys_file}.", err=True)
    if renew:
        typer.echo(secret)


def _quotas(entries: list[str] | None) -> "Quotas | None":
    from pydantic import ValidationError

    from spacte_service.quota_settings import Quotas

    if not entries:
        return None
    named = (entry.partition("=") for entry in entries)
    try:
        return Quotas.model_validate({name: None if most == "none" else most for name, _, most in named})
    except ValidationError as error:
        names = ", ".join(Quotas.model_fields)
        at = error.errors()[0]["loc"][0]
        raise typer.TyperException(
            f"--quota {at}: write NAME=MOST, a whole number from 1 or none, with a NAME of {names}."
        ) from None


def _find(name: str, path: Path) -> "tuple[list[Key], Key]":
    """All keys of the file, and the valid one of that id or name."""
    keys = _read(path)
    for key in keys:
        if name in (key.id, key.name) and key.revoked_at is None:
            return keys, key
    raise typer.TyperException(f"There is no valid key {name} in {path}; `spacte keys list` shows them.")


def _read(path: Path) -> "list[Key]":
    from spacte_service.keys import KeysFileError, read_keys

    try:
        return read_keys(path)
    except KeysFileError as error:
        raise typer.TyperException(str(error)) from None
