"""Networks whose code and weights are one archive: bring your own, of any architecture."""

from typing import Any

import torch
from torch import Tensor, nn


class ArchivedNetwork(nn.Module):
    """The backbone of such a classifier: pixels -> the logits of all its heads.

    Attributes:
        archive: bytes that were checked; empty before they are loaded.
        device: where it runs.
        input_shape: without the batch, of the one tensor that it takes; None before it is loaded or if it takes
            anything else.

    Its weights are part of the archive, so its state is the archive itself, as one uint8 tensor. It has no parameters,
    is always in eval mode and follows the network to another device, not to another dtype.
    """

    def __init__(self) -> None:
        super().__init__()
        self.archive = b""
        self.device = torch.device("cpu")
        self.input_shape: tuple[int, ...] | None = None

    def forward(self, x_BCHW: Tensor) -> Tensor:
        """Logits of all heads, [B, L, K]."""
        return torch.stack(self.logits(x_BCHW), dim=1)

    def logits(self, x_BCHW: Tensor) -> list[Tensor]:
        """What the archived network returns, as one tensor a head."""
        raise NotImplementedError

    def load_archive(self, archive: bytes) -> None:
        """Load what an archive holds; raises ProgramError where it is damaged or asks for too much."""
        raise NotImplementedError

    def prepare(self) -> None:
        """Make what runs, on `device`, from `archive`: it is neither copied nor pickled, and is made again there."""
        raise NotImplementedError

    def get_extra_state(self) -> Tensor:
        """The archive, as torch keeps it in a state dict."""
        return torch.frombuffer(bytearray(self.archive), dtype=torch.uint8)

    def set_extra_state(self, state: Tensor) -> None:
        """The inverse of `get_extra_state`."""
        self.load_archive(state.numpy().tobytes())

    def _apply(self, fn: Any, recurse: bool = True) -> "ArchivedNetwork":
        device = fn(torch.empty(0, device=self.device)).device
        if device != self.device:
            self.device = device
            if self.archive:
                self.prepare()
        return super()._apply(fn, recurse)

    def __getstate__(self) -> dict[str, object]:
        return {key: value for key, value in self.__dict__.items() if key != "_call"}

    def __setstate__(self, state: dict[str, object]) -> None:
        super().__setstate__({**state, "_call": unloaded})
        if self.archive:
            self.prepare()


def unloaded(_x_BCHW: Tensor) -> Any:
    """What an archived network runs before it has an archive."""
    raise RuntimeError("The exported program has not been loaded yet: load the checkpoint's weights first.")
