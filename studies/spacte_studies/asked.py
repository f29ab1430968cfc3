"""What a cell's figures were asked for: kept beside them, so that a study that was changed does not show old ones."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from spacte_core.files import replace_file
from spacte_trainer.config import TrainConfig, computes, differing

from .tables import Setting

ASKED_FILE = "asked.json"
SETTINGS = "settings"

Asked = Mapping[str, Any]


def asked_of(setting: Setting, seed: int, config: TrainConfig | None = None) -> Asked:
    """What the training and the certificates of a cell depend on, as JSON gives it back.

    `config` is what its recipe comes to, which may change from version to version, and in other packages on any day.
    """
    protocol = setting.protocol
    rules = {"every": protocol.every, "n0": protocol.n0, "n": protocol.n, "alpha": protocol.alpha}
    found = {"recipe": setting.recipe, "sigma": setting.sigma, "seed": seed, "set": dict(setting.changes), **rules}
    if config is not None:
        found[SETTINGS] = _settings(computes(config))
    return json.loads(json.dumps(found, default=str))


def _settings(found: dict[str, Any]) -> dict[str, Any]:
    """Without those that may differ between machines that work on the same cell, also in `pretrain`."""
    kept = {name: value for name, value in found.items() if name not in ("precision", "threads", "validate_every")}
    kept["data"] = {name: value for name, value in found["data"].items() if name != "source"}
    if found["pretrain"] is not None:
        kept["pretrain"] = _settings(found["pretrain"])
    return kept


def read_asked(folder: Path) -> Asked | None:
    """What a cell was begun for; None where it is not begun, or from before it was kept."""
    file = folder / ASKED_FILE
    return json.loads(file.read_text()) if file.exists() else None


def write_asked(folder: Path, asked: Asked) -> None:
    """Keep what the cell is begun for."""
    replace_file(folder / ASKED_FILE, (json.dumps(asked, indent=2) + "\n").encode())


def difference(before: Asked | None, now: Asked | None) -> str | None:
    """Where two differ, as a part of a sentence; None where they agree, or one is not known.

    Of the recipe's settings those that both know are compared: a later version has some that an earlier one has not.
    """
    if before is None or now is None:
        return None
    rules = (name for name in {**before, **now} if name != SETTINGS)
    found = [(name, before.get(name), now.get(name)) for name in rules if before.get(name) != now.get(name)]
    found += differing(before.get(SETTINGS, {}), now.get(SETTINGS, {}), shared=True)
    return next((f"{name} was {old} and is now {new}" for name, old, new in found), None)
