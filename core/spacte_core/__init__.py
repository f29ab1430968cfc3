"""What training and certification share: networks, checkpoints, data sources, kernels. Light to import.

Docstrings cite formulas and settings by section: METHODS is `docs/methods.md`.
"""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .checkpoint import Checkpoint, CheckpointConfig, CheckpointError, load_checkpoint, save_checkpoint
    from .data import load_data
    from .importers import import_checkpoint, import_program
    from .models import ModelConfig, MultiHeadNet, Normalization, build

_EXPORTS = {
    "checkpoint": ("Checkpoint", "CheckpointConfig", "CheckpointError", "load_checkpoint", "save_checkpoint"),
    "data": ("load_data",),
    "importers": ("import_checkpoint", "import_program"),
    "models": ("ModelConfig", "MultiHeadNet", "Normalization", "build"),
}

__all__ = [
    "Checkpoint",
    "CheckpointConfig",
    "CheckpointError",
    "ModelConfig",
    "MultiHeadNet",
    "Normalization",
    "build",
    "import_checkpoint",
    "import_program",
    "load_checkpoint",
    "load_data",
    "save_checkpoint",
]


def __getattr__(name: str) -> object:
    from importlib import import_module

    for module, names in _EXPORTS.items():
        if name in names:
            return getattr(import_module(f".{module}", __name__), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
