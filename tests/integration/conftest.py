"""What the integration tests share: a look at the process tree."""

import contextlib
from collections.abc import Callable
from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def descendants() -> Callable[[int], set[int]]:
    """`descendants(pid)` gives the processes that a process has started, and those that they have."""

    def find(root: int) -> set[int]:
        parents: dict[int, int] = {}
        for folder in Path("/proc").iterdir():
            if folder.name.isdigit():
                with contextlib.suppress(OSError):
                    # After the name, which is in parentheses: state, parent.
                    parents[int(folder.name)] = int((folder / "stat").read_text().rpartition(")")[2].split()[1])
        found = {root}
        while more := {pid for pid, parent in parents.items() if parent in found} - found:
            found |= more
        return found - {root}

    return find
