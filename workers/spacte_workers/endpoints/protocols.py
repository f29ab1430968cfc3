"""Rows as requests of the two protocols, and answers as arrays: the Open Inference Protocol v2, and a small JSON form.

POST URL                {"shape": [B, C, H, W], "dtype": "float32", "data": BASE64}       little-endian, C order
200                     {"logits": [[...], ...]} or {"labels": [...]}, and "version": "..." if it likes
"""

import base64
import binascii
import json
from dataclasses import dataclass
from typing import Any, NoReturn

import numpy as np
from numpy.typing import NDArray

from spacte_core.models.endpoint import EndpointConfig
from spacte_workers.errors import EndpointFaultError

JSON_LENGTH = "Inference-Header-Content-Length"
_FLOATS = {"FP16": "<f2", "FP32": "<f4", "FP64": "<f8"}
_INTEGERS = {f"{kind}{8 * size}": f"<{kind[0].lower()}{size}" for kind in ("INT", "UINT") for size in (1, 2, 4, 8)}
_JSON_OUTPUT = {"logits": "logits", "label": "labels"}


@dataclass(frozen=True)
class Answer:
    """Of one request.

    Attributes:
        values: scores [B, K] or labels [B], as they came.
        name, version: what the model calls itself; None where it says nothing.
    """

    values: NDArray[Any]
    name: str | None
    version: str | None


def request_of(config: EndpointConfig, rows_BCHW: NDArray[np.float32]) -> tuple[str, bytes, dict[str, str]]:
    """URL, body and headers of a request; rows in the order of the endpoint's own dimensions."""
    shape, data = list(rows_BCHW.shape), np.ascontiguousarray(rows_BCHW, "<f4").tobytes()
    if config.protocol == "json":
        body = {"shape": shape, "dtype": "float32", "data": base64.b64encode(data).decode()}
        return config.url, json.dumps(body).encode(), {"Content-Type": "application/json"}
    tensor: dict[str, Any] = {"name": config.input, "shape": shape, "datatype": "FP32"}
    wanted: dict[str, Any] = {"name": config.output}
    url = f"{config.url.rstrip('/')}/infer"
    if not config.binary:
        tensor["data"] = rows_BCHW.ravel().tolist()
        return url, _json({"inputs": [tensor], "outputs": [wanted]}), {"Content-Type": "application/json"}
    tensor["parameters"], wanted["parameters"] = {"binary_data_size": len(data)}, {"binary_data": True}
    text = _json({"inputs": [tensor], "outputs": [wanted]})
    headers = {"Content-Type": "application/octet-stream", JSON_LENGTH: str(len(text))}
    return url, text + data, headers


def read_answer(config: EndpointConfig, body: bytes, json_length: str | None) -> Answer:
    """What came back.

    Raises:
        EndpointFaultError: it is no answer of this protocol, or lacks the output.
    """
    if config.protocol == "json":
        answer = _object(config, body)
        name = _JSON_OUTPUT[config.kind]
        if name not in answer:
            refuse(config, f"gives no {name!r}")
        return Answer(_numbers(config, answer[name]), None, _text(answer.get("version")))
    length = len(body) if json_length is None else int(json_length) if json_length.isdecimal() else -1
    if not 0 <= length <= len(body):
        refuse(config, "states a length of its JSON that is not within the body")
    answer, left = _object(config, body[:length]), body[length:]
    values: NDArray[Any] | None = None
    for tensor in _list(config, answer.get("outputs")):
        size = (tensor.get("parameters") or {}).get("binary_data_size")
        data = None
        if isinstance(size, int):
            data, left = left[:size], left[size:]
        if tensor.get("name") == config.output:
            values = _tensor(config, tensor, data)
    if values is None:
        refuse(config, f"gives no output {config.output!r}")
    return Answer(values, _text(answer.get("model_name")), _text(answer.get("model_version")))


def checked(config: EndpointConfig, values: NDArray[Any], rows: int, classes: int) -> NDArray[np.float32]:
    """Logits [rows, classes] of an answer; of labels, one for the label's class and zero for the others.

    Raises:
        EndpointFaultError: they are of another count, shape or type, not finite, or no labels of that many classes.
    """
    if config.kind == "logits":
        if values.shape != (rows, classes):
            refuse(config, f"gives scores of shape {list(values.shape)} for {rows} rows of {classes} classes")
        if values.dtype.kind != "f":
            refuse(config, f"gives scores of type {values.dtype.name}, which are no floating-point numbers")
        with np.errstate(over="ignore"):
            logits_RK = values.astype(np.float32)
        if not np.isfinite(logits_RK).all():
            refuse(config, "gives scores that are NaN or infinite")
        return logits_RK
    if values.shape not in ((rows,), (rows, 1)):
        refuse(config, f"gives labels of shape {list(values.shape)} for {rows} rows")
    if values.dtype.kind not in "iu":
        refuse(config, f"gives labels of type {values.dtype.name}, which are no whole numbers")
    labels_R = values.reshape(rows)
    if labels_R.min() < 0 or labels_R.max() >= classes:
        refuse(config, f"gives labels from {labels_R.min()} to {labels_R.max()}, but has {classes} classes")
    return np.eye(classes, dtype=np.float32)[labels_R]


def refuse(config: EndpointConfig, what: str) -> NoReturn:
    """Say what an endpoint does that it must not.

    Raises:
        EndpointFaultError: always.
    """
    raise EndpointFaultError(f"The endpoint {config.url} {what}, so nothing is certified: mend it, or import it again.")


def _json(body: dict[str, Any]) -> bytes:
    return json.dumps(body, separators=(",", ":")).encode()


def _object(config: EndpointConfig, text: bytes) -> dict[str, Any]:
    try:
        found = json.loads(text)
    except (ValueError, RecursionError):
        found = None
    if not isinstance(found, dict):
        refuse(config, "does not answer in JSON")
    return found


def _list(config: EndpointConfig, outputs: Any) -> list[dict[str, Any]]:
    if not isinstance(outputs, list) or not all(isinstance(tensor, dict) for tensor in outputs):
        refuse(config, "gives no outputs")
    return outputs


def _text(value: Any) -> str | None:
    return None if value is None else str(value)


def _numbers(config: EndpointConfig, data: Any) -> NDArray[Any]:
    """Of a nested list; anything but numbers becomes an array of another type, which is refused where it is used."""
    try:
        values = np.array(data)
    except ValueError:  # lists of several lengths
        refuse(config, "gives rows of several lengths")
    whole = config.kind == "logits" and values.dtype.kind in "iu"
    return values.astype(np.float64) if whole else values  # JSON writes 1.0 as 1


def _tensor(config: EndpointConfig, tensor: dict[str, Any], data: bytes | None) -> NDArray[Any]:
    datatype, shape = tensor.get("datatype"), tensor.get("shape")
    kinds = _FLOATS | _INTEGERS
    if datatype not in kinds:
        refuse(config, f"gives {config.output!r} as {datatype}, and FP16, FP32, FP64 and integers are read")
    if not isinstance(shape, list) or not all(isinstance(n, int) and n >= 0 for n in shape):
        refuse(config, f"gives {config.output!r} without a shape")
    dtype = np.dtype(kinds[datatype])
    try:
        if data is None:
            values = np.array(tensor.get("data"), np.float64 if dtype.kind == "f" else dtype)
        else:
            values = np.frombuffer(data, dtype)
        with np.errstate(over="ignore", invalid="ignore"):
            return values.astype(dtype).reshape(shape)
    except (ValueError, TypeError, OverflowError, binascii.Error):
        refuse(config, f"gives {config.output!r} with other numbers than its shape {shape} says")
