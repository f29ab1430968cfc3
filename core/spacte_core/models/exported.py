"""A `torch.export` program as a base classifier: bring your own network, of any architecture."""

from collections.abc import Callable, Sequence
from typing import Self

import torch
from torch import Tensor, nn
from torch.export.passes import move_to_device_pass

from . import program_archive


class Program(nn.Module):
    """The backbone of an exported classifier: pixels -> the logits of all its heads.

    Attributes:
        input_shape: without the batch, of the one tensor that the program takes; None before it is loaded or if it
            takes anything else.

    Its weights are part of the program, so its state is the program itself: the bytes of a screened archive as one
    uint8 tensor. It has no parameters, is always in eval mode and follows the network to another device, not to another
    dtype.
    """

    def __init__(self) -> None:
        super().__init__()
        self.archive = b""
        self.device = torch.device("cpu")
        self.dtype = torch.float32
        self.input_shape: tuple[int, ...] | None = None
        self._call: Callable[[Tensor], Tensor | Sequence[Tensor]] = _unloaded

    def forward(self, x_BCHW: Tensor) -> Tensor:
        """Logits of all heads, [B, L, K]."""
        return torch.stack(self.logits(x_BCHW), dim=1)

    def logits(self, x_BCHW: Tensor) -> list[Tensor]:
        """What the program returns, as one tensor a head."""
        z = self._call(x_BCHW.to(self.dtype))
        return [z] if isinstance(z, Tensor) else list(z)

    def load_archive(self, archive: bytes) -> None:
        """Load the program of an archive.

        Raises:
            program_archive.ProgramError: it is damaged, or asks for more than a classifier needs.
        """
        self.archive = program_archive.screened(archive)
        self._prepare()

    def get_extra_state(self) -> Tensor:
        """The archive, as torch keeps it in a state dict."""
        return torch.frombuffer(bytearray(self.archive), dtype=torch.uint8)

    def set_extra_state(self, state: Tensor) -> None:
        """The inverse of `get_extra_state`."""
        self.load_archive(state.numpy().tobytes())

    def _prepare(self) -> None:
        program = program_archive.load(self.archive)
        call = move_to_device_pass(program, self.device).module()
        names = program.graph_signature.user_inputs
        inputs = [node.meta["val"] for node in program.graph.nodes if node.name in names]
        whole = len(inputs) == 1 and isinstance(inputs[0], Tensor)
        self.input_shape = tuple(map(int, inputs[0].shape[1:])) if whole else None
        self.dtype = next((p.dtype for p in call.parameters() if p.is_floating_point()), torch.float32)
        # The module can be neither copied nor pickled, and its parameters are not for training: a bound method keeps it
        # out of the list of submodules, and it is made again where needed.
        self._call = call.requires_grad_(False).forward

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Self:
        device = fn(torch.empty(0, device=self.device)).device
        if device != self.device:
            self.device = device
            if self.archive:
                self._prepare()
        return super()._apply(fn, recurse)

    def __getstate__(self) -> dict[str, object]:
        return {key: value for key, value in self.__dict__.items() if key != "_call"}

    def __setstate__(self, state: dict[str, object]) -> None:
        super().__setstate__({**state, "_call": _unloaded})
        if self.archive:
            self._prepare()


def _unloaded(_x_BCHW: Tensor) -> Tensor:
    raise RuntimeError("The exported program has not been loaded yet: load the checkpoint's weights first.")
