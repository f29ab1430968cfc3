"""Which names in an archive are the user's, and which the system's that packed it."""


def is_hidden(name: str) -> bool:
    """Whether a desktop system, a notebook or Python has left it there."""
    parts = [part for part in name.split("/") if part != "."]
    return any(part.startswith(".") or part in ("__MACOSX", "__pycache__") for part in parts)
