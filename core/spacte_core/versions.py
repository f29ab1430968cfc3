"""Which software is installed here, for checkpoints and certificates."""

from importlib.metadata import PackageNotFoundError, version


def installed_version(distribution: str) -> str:
    """The version of a distribution, or "unknown" where it was not installed: run from a bare source tree."""
    try:
        return version(distribution)
    except PackageNotFoundError:
        return "unknown"
