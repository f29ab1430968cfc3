"""An ONNX graph as a base classifier, computed by ONNX Runtime."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from spacte_core.errors import DeviceError, optional_package

from .archived import ArchivedNetwork, unloaded
from .program_archive import ProgramError

_PROVIDERS = {"cpu": "CPUExecutionProvider", "cuda": "CUDAExecutionProvider"}
EXTRA = "onnx"  # of spacte-workers


class OnnxNetwork(ArchivedNetwork):
    """An ONNX model that holds its own weights: one float32 input [B, C, H, W], and outputs [B, K], one a head.

    Attributes:
        fixed_batch: rows that every run takes, or None where it takes any number. Rows beyond one run are computed in
            several, and a last run that is not full is filled up with its last row.
        channels: that it takes, where it says so.
    """

    def __init__(self) -> None:
        super().__init__()
        self.fixed_batch: int | None = None
        self.channels: int | None = None
        self._call: Callable[[Tensor], list[np.ndarray]] = unloaded

    def logits(self, x_BCHW: Tensor) -> list[Tensor]:
        """What the graph returns, as one float32 tensor a head, on the device of the images."""
        batch = self.fixed_batch or len(x_BCHW)
        runs = [self._run(rows, batch) for rows in x_BCHW.split(batch)]
        return [torch.cat(rows).to(x_BCHW.device) for rows in zip(*runs, strict=True)]

    def load_archive(self, archive: bytes) -> None:
        """Load the graph of an ONNX file's bytes.

        Raises:
            ProgramError: it is damaged, keeps weights in other files, or calls operators that are not ONNX's.
        """
        self.archive = screened(archive)
        self.prepare()

    def prepare(self) -> None:
        """Make a session of ONNX Runtime for `device`."""
        runtime = optional_package("onnxruntime", EXTRA)
        provider = _PROVIDERS.get(self.device.type, "")
        if provider not in runtime.get_available_providers():
            raise DeviceError(
                f"The ONNX Runtime installed here does not run on {self.device.type}: install onnxruntime-gpu, or use "
                "the CPU."
            )
        options = runtime.SessionOptions()
        options.intra_op_num_threads = torch.get_num_threads()
        options.log_severity_level = 3  # errors alone
        options.use_deterministic_compute = True
        choice = (provider, {"device_id": self.device.index or 0}) if self.device.type == "cuda" else provider
        try:
            session = runtime.InferenceSession(self.archive, options, providers=[choice])
        except Exception as error:  # its exceptions share no base of their own
            raise ProgramError(f"ONNX Runtime cannot load it ({_first_line(error)})") from error
        inputs = session.get_inputs()
        usual = len(inputs) == 1 and inputs[0].type == "tensor(float)" and len(inputs[0].shape) == 4
        batch, *shape = inputs[0].shape if usual else [None]
        self.fixed_batch = batch if isinstance(batch, int) else None
        self.channels = shape[0] if shape and isinstance(shape[0], int) else None
        known = tuple(n for n in shape if isinstance(n, int))
        self.input_shape = known if len(known) == 3 else None
        name = inputs[0].name if inputs else ""
        self._call = lambda x_BCHW: session.run(None, {name: x_BCHW.float().contiguous().cpu().numpy()})

    def shape_at(self, size: int | None) -> tuple[int, ...] | None:
        """(C, H, W) where height and width are `size` if the graph leaves them open; None where nobody says."""
        if self.input_shape is None and self.channels is not None and size is not None:
            return self.channels, size, size
        return self.input_shape

    def _run(self, rows_BCHW: Tensor, batch: int) -> list[Tensor]:
        """One run: exactly `batch` rows go in, and the logits of those that were given come back."""
        missing = batch - len(rows_BCHW)
        filled = torch.cat([rows_BCHW, rows_BCHW[-1:].expand(missing, -1, -1, -1)]) if missing else rows_BCHW
        return [torch.from_numpy(z_BK)[: len(rows_BCHW)] for z_BK in self._call(filled)]


def screened(archive: bytes) -> bytes:
    """The bytes, once it was seen that the graph keeps all its weights; foreign operators the runtime refuses.

    Raises:
        ProgramError: it names other files, or is no ONNX file.
    """
    onnx = optional_package("onnx", EXTRA)
    try:
        model = onnx.load_model_from_string(archive)
    except Exception as error:  # protobuf's
        raise ProgramError(f"it is no ONNX file ({_first_line(error)})") from error
    external = onnx.TensorProto.EXTERNAL
    if any(getattr(part, "data_location", None) == external for part in _messages(model)):
        raise ProgramError("it keeps weights in other files")
    return archive


def with_weights(archive: bytes, folder: Path) -> bytes:
    """The bytes of an ONNX file with the weights in it that it keeps in other files of its folder.

    Raises:
        ProgramError: it is no ONNX file, or a file of weights is missing or lies elsewhere.
    """
    onnx = optional_package("onnx", EXTRA)
    if b"location" not in archive:
        return archive
    try:
        model = onnx.load_model_from_string(archive)
        onnx.external_data_helper.load_external_data_for_model(model, str(folder))
        return model.SerializeToString()
    except Exception as error:  # protobuf's, the checker's, and those of files
        raise ProgramError(f"its weights cannot be read ({_first_line(error)})") from error


def _messages(message: Any) -> Iterator[Any]:
    """A protobuf message and all that it holds, at any depth."""
    yield message
    for field, value in message.ListFields():
        if field.message_type is not None:
            for part in [value] if hasattr(value, "ListFields") else value:
                yield from _messages(part)


def _first_line(error: Exception) -> str:
    return str(error).strip().partition("\n")[0][:200].rstrip(". ")
