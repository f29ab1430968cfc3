"""Training objectives: a base method and a teaching, composed.

`build(spacte(GaussianConfig(draws=2), lambda_last=1.2))` is SPACTE-Gaussian, and
`build(ObjectiveConfig(base=...))` the method on its own. To add a method, write its file, and add its
configuration to `BaseConfig` here.
"""

from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field

from spacte_trainer.attacks import PgdConfig

from .base import Draws, Loss, Objective, SeededDraws, Step, split
from .consistency import ConsistencyConfig
from .drt import DrtConfig
from .gaussian import GaussianConfig
from .macer import MacerConfig
from .smoothadv import SmoothAdvConfig
from .smoothmix import SmoothMixConfig
from .teaching import CircularTeachingConfig, Independent

__all__ = [
    "BaseConfig",
    "CircularTeachingConfig",
    "ConsistencyConfig",
    "Draws",
    "DrtConfig",
    "GaussianConfig",
    "Loss",
    "MacerConfig",
    "Objective",
    "ObjectiveConfig",
    "PgdConfig",
    "SeededDraws",
    "SmoothAdvConfig",
    "SmoothMixConfig",
    "Step",
    "build",
    "spacte",
    "split",
]

BaseConfig = Annotated[
    GaussianConfig | ConsistencyConfig | SmoothMixConfig | SmoothAdvConfig | MacerConfig | DrtConfig,
    Field(discriminator="name"),
]


class ObjectiveConfig(BaseModel):
    """What is minimised: a base method, and who teaches whom (None: every head on its own)."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    base: BaseConfig
    teaching: CircularTeachingConfig | None = None


def build(config: ObjectiveConfig) -> Objective:
    """The objective of a configuration."""
    teaching = Independent() if config.teaching is None else config.teaching.build()
    return Objective(config.base.build(), teaching)


def spacte(base: BaseConfig, lambda_last: float) -> ObjectiveConfig:
    """SPACTE over a base method, in the form that is published for it (METHODS 3.5, 3.6)."""
    return ObjectiveConfig(base=base.under_teaching(), teaching=CircularTeachingConfig(lambda_last=lambda_last))
