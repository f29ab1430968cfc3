"""Networks: `build(ModelConfig) -> MultiHeadNet`."""

from .multihead import MultiHeadNet, unwrapped
from .normalization import Normalization
from .registry import ModelConfig, build, ensemble_of

__all__ = ["ModelConfig", "MultiHeadNet", "Normalization", "build", "ensemble_of", "unwrapped"]
