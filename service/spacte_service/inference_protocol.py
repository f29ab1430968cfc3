"""Tensors of the Open Inference Protocol v2: images in, labels and counts out, as JSON or with the binary extension.

With the extension a body is JSON, whose length a header says, and then the tensors' bytes, little-endian, in the order
in which the JSON names them.
"""

import io
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any, Literal, cast, get_args

from pydantic import BaseModel, Field, PositiveInt, model_validator

from spacte_client.types import Prediction, PredictParams

from .bodies import parse_json, validated
from .problems import ProblemError, field_error

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from spacte_workers.shards import Image

JSON_LENGTH = "Inference-Header-Content-Length"
INPUT = "image"
OutputName = Literal["label", "counts"]
OUTPUTS: tuple[OutputName, ...] = get_args(OutputName)
_TYPES = {"FP32": "<f4", "UINT8": "|u1"}
_CLIENTS_OWN = {"binary_data_output", "sequence_id", "sequence_start", "sequence_end", "priority", "timeout"}
"""Parameters that clients of Triton send by themselves; of these, the first alone means something here."""


@dataclass(frozen=True)
class Inference:
    """One request.

    Attributes:
        id: the caller's, which the answer repeats.
        images: npy files, one an image, [C, H, W].
        params: options of the prediction.
        outputs: names of the tensors that are wanted, and whether in binary.
    """

    id: str | None
    images: tuple[bytes, ...]
    params: PredictParams
    outputs: dict[OutputName, bool]


_NOT_OFFERED = {
    "shared_memory_region": "ask for shared memory, of which this gateway has none; send tensors in the body",
    "classification": "ask for the classification extension, which is not offered; take `counts` and sort them",
}
"""Extensions of the protocol that change what a tensor is: to pass over them would be a wrong answer."""


class TensorParameters(BaseModel):
    """Of a tensor; what changes nothing about it is passed over."""

    @model_validator(mode="before")
    @classmethod
    def _is_offered(cls, value: object) -> object:
        given: Mapping[str, Any] = cast("Mapping[str, Any]", value) if isinstance(value, Mapping) else {}
        asked = next((name for name in _NOT_OFFERED if name in given), None)
        if asked is not None:
            raise ValueError(_NOT_OFFERED[asked])
        return cast("object", value)


class ImageParameters(TensorParameters):
    """Of the input: how many bytes of it follow the JSON."""

    binary_data_size: int | None = None


class ImageTensor(BaseModel):
    """The input: [batch, channels, height, width], or one image without the batch."""

    name: Literal["image"]
    datatype: Literal["FP32", "UINT8"]
    shape: Annotated[list[PositiveInt], Field(min_length=3, max_length=4)]
    parameters: ImageParameters = ImageParameters()
    data: Any = None


class OutputParameters(TensorParameters):
    """Of an output: whether it is wanted in binary."""

    binary_data: bool | None = None


class WantedOutput(BaseModel):
    """An output that the caller asks for."""

    name: OutputName
    parameters: OutputParameters = OutputParameters()


class InferenceRequest(BaseModel):
    """The JSON of a request; what else the protocol allows in it means nothing here."""

    id: str | None = None
    inputs: Annotated[list[ImageTensor], Field(min_length=1, max_length=1)]
    outputs: list[WantedOutput] = []
    parameters: dict[str, Any] = {}


class RowsTensor(BaseModel):
    """Rows for the base classifier, which noise may have taken out of [0, 1]: [batch, channels, height, width]."""

    name: Literal["image"]
    datatype: Literal["FP32"]
    shape: Annotated[list[PositiveInt], Field(min_length=4, max_length=4)]
    parameters: ImageParameters = ImageParameters()
    data: Any = None


class WantedLogits(BaseModel):
    """The one output of a base classifier."""

    name: Literal["logits"]
    parameters: OutputParameters = OutputParameters()


class RowsRequest(BaseModel):
    """The JSON of a request to a base classifier."""

    id: str | None = None
    inputs: Annotated[list[RowsTensor], Field(min_length=1, max_length=1)]
    outputs: Annotated[list[WantedLogits], Field(max_length=1)] = []
    parameters: dict[str, Any] = {}


@dataclass(frozen=True)
class Rows:
    """Such a request: the rows, and whether their logits are wanted in binary."""

    id: str | None
    images: "tuple[Image, ...]"
    binary: bool


def split(raw: bytes, json_length: str | None) -> tuple[bytes, bytes]:
    """The JSON of a body, and the tensor after it.

    Args:
        raw: the body.
        json_length: the header that says where its JSON ends, if it has one.

    Raises ProblemError: that is no length within the body.
    """
    end = len(raw) if json_length is None else _length(json_length, len(raw))
    return raw[:end], raw[end:]


def read_inference(text: bytes, *, tensor: bytes, model: str, most_images: int) -> Inference:
    """The request in a body.

    Args:
        text: its JSON.
        tensor: what comes after that.
        model: whom the path names.
        most_images: how many a request may have.

    Raises:
        ProblemError: it cannot be read, or a field is not as it should be.
    """
    body = validated(InferenceRequest, parse_json(text))
    images = _images(body.inputs[0], tensor)
    if len(images) > most_images:
        raise field_error("/inputs/0/shape", f"Send at most {most_images} images in one request.")
    options = {name: value for name, value in body.parameters.items() if name not in _CLIENTS_OWN}
    params = validated(PredictParams, {"model": model, **options})
    if len(images) > 1 and params.seed is not None:
        raise field_error("/parameters/seed", "A seed belongs to one image; send the images one by one.")
    binary = body.parameters.get("binary_data_output") is True
    wanted: dict[OutputName, bool | None] = dict.fromkeys(OUTPUTS)
    if body.outputs:
        wanted = {output.name: output.parameters.binary_data for output in body.outputs}
    return Inference(body.id, images, params, {name: binary if own is None else own for name, own in wanted.items()})


def read_rows(text: bytes, *, tensor: bytes, most_rows: int) -> Rows:
    """The rows in a body. Arguments and errors as for `read_inference`."""
    import numpy as np

    from spacte_workers.shards import Image

    body = validated(RowsRequest, parse_json(text))
    values = _values(body.inputs[0], tensor)
    if len(values) > most_rows:
        raise field_error("/inputs/0/shape", f"Send at most {most_rows} rows in one request.")
    if not np.isfinite(values).all():
        raise field_error("/inputs/0/data", "Send finite numbers.")
    _, channels, height, width = values.shape
    images = tuple(Image(row.tobytes(), (channels, height, width), "float32") for row in values)
    own = body.outputs[0].parameters.binary_data if body.outputs else None
    return Rows(body.id, images, body.parameters.get("binary_data_output") is True if own is None else own)


def write_rows(
    request: Rows, logits_BK: "NDArray[np.float32]", model: str, version: str
) -> tuple[bytes, dict[str, str]]:
    """The answer's body and headers: `logits` [B, K]."""
    wanted = {"logits": (logits_BK.astype("<f4"), "FP32", request.binary)}
    return _written({"model_name": model, "model_version": version}, request.id, wanted)


def write_inference(request: Inference, answers: Sequence[Prediction]) -> tuple[bytes, dict[str, str]]:
    """The answer's body and headers: the predictions as tensors `label` [B] and `counts` [B, K]."""
    import numpy as np

    tensors = {
        "label": np.array([answer.label for answer in answers], "<i8"),
        "counts": np.array([answer.counts for answer in answers], "<i8"),
    }
    first = answers[0]
    wanted = {name: (tensors[name], "INT64", in_binary) for name, in_binary in request.outputs.items()}
    return _written({"model_name": first.model, "model_version": first.model_version}, request.id, wanted)


def _written(
    model: dict[str, Any], request_id: str | None, outputs: "Mapping[str, tuple[NDArray[Any], str, bool]]"
) -> tuple[bytes, dict[str, str]]:
    """Body and headers of an answer: each output's values, datatype, and whether it is wanted in binary."""
    described: list[dict[str, Any]] = []
    binary: list[bytes] = []
    for name, (values, datatype, in_binary) in outputs.items():
        tensor: dict[str, Any] = {"name": name, "datatype": datatype, "shape": list(values.shape)}
        if in_binary:
            binary.append(values.tobytes())
            tensor["parameters"] = {"binary_data_size": values.nbytes}
        else:
            tensor["data"] = values.reshape(-1).tolist()
        described.append(tensor)
    head = model | ({"id": request_id} if request_id is not None else {})
    text = json.dumps({**head, "outputs": described}).encode()
    if not binary:
        return text, {"Content-Type": "application/json"}
    headers = {"Content-Type": "application/octet-stream", JSON_LENGTH: str(len(text))}
    return b"".join([text, *binary]), headers


def _length(header: str, most: int) -> int:
    if not header.isdecimal() or int(header) > most:
        raise ProblemError("bad_request", f"{JSON_LENGTH} is not a length within the body; send the JSON's own length.")
    return int(header)


def _images(tensor: ImageTensor, binary: bytes) -> tuple[bytes, ...]:
    """Npy files of the images in a tensor."""
    return tuple(map(_npy, _values(tensor, binary)))


def _values(tensor: ImageTensor | RowsTensor, binary: bytes) -> "NDArray[Any]":
    """The images in a tensor, [B, C, H, W]."""
    import numpy as np

    dtype = np.dtype(_TYPES[tensor.datatype])
    size, count = tensor.parameters.binary_data_size, math.prod(tensor.shape)
    if size is None:
        values = _from_json(tensor.data, count, dtype)
    elif size == len(binary) == count * dtype.itemsize:
        values = np.frombuffer(binary, dtype)
    else:
        raise field_error("/inputs/0/parameters/binary_data_size", "Send as many bytes as the shape says, and say so.")
    return values.reshape(-1, *tensor.shape[-3:])


def _from_json(data: Any, count: int, dtype: "np.dtype[Any]") -> "NDArray[Any]":
    """The values of a flat or nested list."""
    import numpy as np

    try:
        values = np.array(data, np.float64).reshape(-1)
    except (TypeError, ValueError):
        values = np.empty(0)
    whole = dtype.kind == "f" or bool(((values == values.round()) & (values >= 0) & (values <= 255)).all())
    if len(values) != count or not whole:
        sentence = "`data` is a list of as many numbers as the shape says, for UINT8 whole ones from 0 to 255."
        raise field_error("/inputs/0/data", sentence)
    with np.errstate(over="ignore"):  # infinite then, and refused as such
        return values.astype(dtype)


def _npy(values: "NDArray[Any]") -> bytes:
    import numpy as np

    file = io.BytesIO()
    np.save(file, values, allow_pickle=False)
    return file.getvalue()
