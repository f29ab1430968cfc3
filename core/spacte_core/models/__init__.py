"""Networks: `build(ModelConfig) -> MultiHeadNet`."""

from .multihead import MultiHeadNet, bare
from .normalization import Normalization
from .registry import ModelConfig, build, ensemble_of

__all__ = ["ModelConfig", "MultiHeadNet", "Normalization", "bare", "build", "ensemble_of"]
