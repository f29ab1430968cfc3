"""Which names in an archive are the user's, and which the system's that packed it."""

from pathlib import PurePosixPath


def is_hidden(path: PurePosixPath) -> bool:
    """Whether a desktop system, a notebook or Python has left it there."""
    return any(part.startswith(".") or part in ("__MACOSX", "__pycache__") for part in path.parts)
