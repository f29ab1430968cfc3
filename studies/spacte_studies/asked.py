"""What a cell's figures were asked for: kept beside them, so that a study that was changed does not show old ones."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from spacte_core.files import replace_file

from .tables import Setting

ASKED_FILE = "asked.json"

Asked = Mapping[str, Any]


def asked_of(setting: Setting, seed: int) -> Asked:
    """What the training and the certificates of a cell depend on, as JSON gives it back."""
    protocol = setting.protocol
    rules = {"every": protocol.every, "n0": protocol.n0, "n": protocol.n, "alpha": protocol.alpha}
    found = {"recipe": setting.recipe, "sigma": setting.sigma, "seed": seed, "set": dict(setting.changes), **rules}
    return json.loads(json.dumps(found, default=str))


def read_asked(folder: Path) -> Asked | None:
    """What a cell was begun for; None where it is not begun, or from before it was kept."""
    file = folder / ASKED_FILE
    return json.loads(file.read_text()) if file.exists() else None


def write_asked(folder: Path, asked: Asked) -> None:
    """Keep what the cell is begun for."""
    replace_file(folder / ASKED_FILE, (json.dumps(asked, indent=2) + "\n").encode())


def difference(before: Asked | None, now: Asked | None) -> str | None:
    """Where two differ, as a part of a sentence; None where they agree, or one is not known."""
    if before is None or now is None:
        return None
    names = [name for name in {**before, **now} if before.get(name) != now.get(name)]
    return f"{names[0]} was {before.get(names[0])} and is now {now.get(names[0])}" if names else None
