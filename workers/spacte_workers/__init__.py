"""Certification: noise, votes, bounds, and their sharding. Nothing heavy is imported until it is used."""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .local import LocalCertifier

__all__ = ["LocalCertifier"]


def __getattr__(name: str) -> object:
    if name == "LocalCertifier":
        from .local import LocalCertifier

        return LocalCertifier
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
