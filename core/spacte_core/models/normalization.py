"""Input normalisation as the first layer, with constants that are configuration and not weights."""

from collections.abc import Callable
from typing import Literal, Self

import torch
from pydantic import BaseModel, ConfigDict
from torch import Tensor, nn

STATISTICS: dict[str, tuple[tuple[float, ...], tuple[float, ...]]] = {
    "cifar10": ((0.4914, 0.4822, 0.4465), (0.2023, 0.1994, 0.2010)),
    "cifar100": ((0.5071, 0.4865, 0.4409), (0.2673, 0.2564, 0.2762)),
    "imagenet": ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
    "mnist": ((0.1307,), (0.3081,)),
    "svhn": ((0.4377, 0.4438, 0.4728), (0.1980, 0.2010, 0.1970)),
    "digits": ((0.305,), (0.376,)),
}
"""Mean and sd per channel of [0, 1] pixels; CIFAR-10 and ImageNet as published (METHODS section 1)."""


class Normalization(BaseModel):
    """(x - mean) / sd per channel (`standard`), x - mean (`center`), or x itself (`none`)."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    kind: Literal["standard", "center", "none"] = "none"
    mean: tuple[float, ...] = ()
    sd: tuple[float, ...] = ()

    @classmethod
    def of(cls, dataset: str, kind: Literal["standard", "center", "none"] = "standard") -> "Normalization":
        """The constants of a known data set.

        Raises:
            ValueError: no constants are known for it.
        """
        if kind == "none":
            return cls()
        if dataset not in STATISTICS:
            known = ", ".join(sorted(STATISTICS))
            raise ValueError(f"No pixel statistics are known for {dataset!r}: name one of {known}.")
        mean, sd = STATISTICS[dataset]
        return cls(kind=kind, mean=mean, sd=sd if kind == "standard" else ())

    def build(self) -> nn.Module:
        """The layer."""
        return Normalize(self.mean, self.sd or (1.0,) * len(self.mean)) if self.mean else nn.Identity()


class Normalize(nn.Module):
    """(x - mean) / sd per channel.

    The constants are in no state dict. They are kept as Python floats and rounded anew to whatever dtype the network is
    moved to, so that a float64 network has them in full double precision whatever it was before.

    Attributes:
        mean, sd: one value a channel.
    """

    mean_C11: Tensor
    sd_C11: Tensor

    def __init__(self, mean: tuple[float, ...], sd: tuple[float, ...]) -> None:
        super().__init__()
        self.mean = mean
        self.sd = sd
        self.register_buffer("mean_C11", _column(mean, torch.get_default_dtype()), persistent=False)
        self.register_buffer("sd_C11", _column(sd, torch.get_default_dtype()), persistent=False)

    def forward(self, x_BCHW: Tensor) -> Tensor:
        """Pixels in [0, 1], or noisy ones, standardised."""
        return (x_BCHW - self.mean_C11) / self.sd_C11

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Self:
        super()._apply(fn, recurse)
        self.mean_C11 = _column(self.mean, self.mean_C11.dtype).to(self.mean_C11.device)
        self.sd_C11 = _column(self.sd, self.sd_C11.dtype).to(self.sd_C11.device)
        return self


def _column(values: tuple[float, ...], dtype: torch.dtype) -> Tensor:
    return torch.tensor(values, dtype=dtype)[:, None, None]
