"""Which names in a folder or an archive are not the user's: what systems, notebooks and Python leave there."""

from pathlib import PurePath

LEFT = frozenset(
    {
        "__macosx",
        "__pycache__",
        "lost+found",
        "@eadir",
        "@recycle",
        "@recently-snapshot",
        "#recycle",
        "#snapshot",
        "$recycle.bin",
        "recycler",
        "system volume information",
    }
)
"""Of macOS's archiver, Python, Linux, Synology, QNAP and Windows, in small letters. Of characters a dot alone hides a
name: classes may be called after others."""


def is_hidden(path: PurePath | str) -> bool:
    """Whether any part of a relative path is such a name, or begins with a dot, as `.ipynb_checkpoints` does."""
    parts = path.split("/") if isinstance(path, str) else path.parts  # archives have 100,000 names
    return any(part.startswith(".") or part.lower() in LEFT for part in parts if part not in (".", ".."))
