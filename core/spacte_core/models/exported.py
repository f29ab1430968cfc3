"""A `torch.export` program as a base classifier."""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, fx
from torch.export.passes import move_to_device_pass

from . import program_archive
from .archived import ArchivedNetwork, unloaded


class Program(ArchivedNetwork):
    """A screened archive of `torch.export.save`.

    Attributes:
        dtype: of its weights; pixels are brought to it.
    """

    def __init__(self) -> None:
        super().__init__()
        self.dtype = torch.float32
        self._call: Callable[[Tensor], Tensor | Sequence[Tensor]] = unloaded

    @property
    def graph_module(self) -> fx.GraphModule:
        """The program on `device`, as operators of ATen; not to be changed."""
        owner = getattr(self._call, "__self__", None)
        if not isinstance(owner, fx.GraphModule):
            raise RuntimeError("the program has not been loaded")  # noqa: TRY004  no wrong type was passed
        return owner

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
        self.prepare()

    def prepare(self) -> None:
        """Load the program and bring it to `device`."""
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
