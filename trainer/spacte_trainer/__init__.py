"""Training of multi-head networks: recipes, objectives, circular teaching and the loop that writes checkpoints.

    from spacte_trainer import load_recipe, override, run

    config = override(load_recipe("digits-gaussian"), {"epochs": 2})
    run(config, Path("runs/digits"), device=torch.device("cpu"), console=Console())

Names are imported when they are first used, so that the command line starts at once. Docstrings cite formulas and
settings by section: METHODS is `docs/methods.md`.
"""

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .callbacks import Callback
    from .config import TrainConfig, override
    from .evaluation import evaluate
    from .loop import train
    from .objectives import Objective, spacte
    from .recipes import load_recipe
    from .runs import run

__all__ = ["Callback", "Objective", "TrainConfig", "evaluate", "load_recipe", "override", "run", "spacte", "train"]

_MODULES = {
    "callbacks": ("Callback",),
    "config": ("TrainConfig", "override"),
    "evaluation": ("evaluate",),
    "loop": ("train",),
    "objectives": ("Objective", "spacte"),
    "recipes": ("load_recipe",),
    "runs": ("run",),
}
"""Where each public name is."""


def __getattr__(name: str) -> object:
    for module, names in _MODULES.items():
        if name in names:
            return getattr(import_module(f".{module}", __name__), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
