"""What the groups of settings have in common."""

from typing import Annotated

from pydantic import Field
from pydantic_settings import BaseSettings, SettingsConfigDict

Count = Annotated[int, Field(ge=1)]
CountOrNone = Annotated[int | None, Field(ge=1)]


class Group(BaseSettings):
    """Settings of one subject. The string below a field is its help text.

    Values come from keyword arguments, else from the environment, else from the defaults.
    """

    model_config = SettingsConfigDict(
        env_prefix="SPACTE_", extra="forbid", protected_namespaces=(), use_attribute_docstrings=True
    )


def parts(text: str | None) -> list[str]:
    """The parts of a text that commas separate."""
    return [part.strip() for part in (text or "").split(",") if part.strip()]


def check_prefix(root: str) -> None:
    """See that a prefix such as s3://bucket/sets is one of URIs that can be read. Raises ValueError."""
    from spacte_workers.batch.inputs import InputError, load_driver, parts_of

    try:
        scheme = parts_of(root)[0]
        if scheme in ("file", "local"):
            raise ValueError(f"{root!r} is a folder of this machine; give its path, from /")
        load_driver(scheme)
    except InputError as error:
        raise ValueError(f"{root!r}: {str(error).rstrip('.')}") from None
