"""Training objectives: a base method and a teaching, composed.

`spacte(Gaussian(draws=2), lambda_last=1.2)` is SPACTE-Gaussian, and `Objective(base=Gaussian())` the method alone.
"""

from spacte_trainer.attacks import Pgd

from .base import Draws, Loss, Method, SeededDraws, Step, Terms
from .consistency import Consistency
from .denoise import Denoise
from .drt import Drt
from .gaussian import Gaussian
from .macer import Macer
from .objective import BaseMethod, Objective, spacte, split
from .smoothadv import SmoothAdv
from .smoothmix import SmoothMix
from .teaching import CircularTeaching

__all__ = [
    "BaseMethod",
    "CircularTeaching",
    "Consistency",
    "Denoise",
    "Draws",
    "Drt",
    "Gaussian",
    "Loss",
    "Macer",
    "Method",
    "Objective",
    "Pgd",
    "SeededDraws",
    "SmoothAdv",
    "SmoothMix",
    "Step",
    "Terms",
    "spacte",
    "split",
]
