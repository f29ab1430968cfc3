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
