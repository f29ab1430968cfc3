"""The state from which an interrupted run is resumed, written as a whole after every epoch.

An epoch's random draws depend on the seed and the epoch alone (`data.base.stream`), so weights, their
average, momentum and the number of epochs done are all there is to keep. An epoch that was interrupted is repeated with
the same result.
"""

import pickle
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from pydantic import ValidationError

from spacte_core.errors import UserError
from spacte_core.files import replacing

from .config import TrainConfig, differing, identifying_settings

STATE_FILE = "training_state.pt"


class StateError(UserError):
    """A state that cannot be continued; the message is one sentence that names the remedy."""


@dataclass(frozen=True)
class State:
    """A run after `epoch` whole epochs; `average` is None where the run keeps none of its weights."""

    epoch: int
    seconds: float
    model: dict[str, Any]
    optimizer: dict[str, Any]
    average: dict[str, Any] | None = None


def save_state(folder: Path, config: TrainConfig, state: State) -> None:
    """Replace the state in `folder` in one step, so that a kill leaves the old one or the new one."""
    folder.mkdir(parents=True, exist_ok=True)
    with replacing(folder / STATE_FILE) as file:
        torch.save({"config": config.model_dump_json(), **vars(state)}, file)


def load_state(folder: Path, config: TrainConfig, device: torch.device) -> State | None:
    """The state in `folder`, or None where there is none.

    Raises:
        StateError: it cannot be read, or it belongs to a run with other settings.
    """
    path = folder / STATE_FILE
    if not path.exists():
        return None
    try:
        found = torch.load(path, map_location=device, weights_only=True)
        before = TrainConfig.model_validate_json(found.pop("config"))
    except (OSError, EOFError, RuntimeError, KeyError, pickle.UnpicklingError, ValidationError) as error:
        raise StateError(f"{path} cannot be read ({error}): delete it to start over.") from error
    pairs = differing(identifying_settings(before), identifying_settings(config))
    changed = [f"{name}: {old!r}, now {new!r}" for name, old, new in pairs]
    if changed:
        raise StateError(
            f"The run in {folder} was started with other settings ({'; '.join(changed[:3])}): "
            "resume it with its own, or choose another --out."
        )
    return State(**found)
