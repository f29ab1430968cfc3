"""One request of the API as a value: what to send and how to read the answer. Nothing is sent from here.

Both clients send these, so that every route is written down once.
"""

import json
import uuid
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Generic, TypeVar
from urllib.parse import quote

import httpx2
from pydantic import BaseModel, ValidationError

from ._exceptions import APIResponseError, InvalidArgumentError
from ._images import Image, encode_image
from ._options import validated
from ._settings import Timeout, as_timeout
from .types import (
    Bracket,
    BracketParams,
    Certificate,
    CertifyParams,
    FileImage,
    Health,
    ImageParams,
    Info,
    Model,
    ModelList,
    Prediction,
    PredictionSet,
    PredictParams,
    SetParams,
    SigningKey,
    SigningKeyList,
)

T = TypeVar("T")
M = TypeVar("M", bound=BaseModel)

EVENTS = {"Accept": "text/event-stream, application/problem+json"}
"""Headers of a call that is answered with server-sent events."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Call(Generic[T]):
    """A logical call: every attempt at it sends the same bytes and the same idempotency key.

    Attributes:
        read: the answer from a response whose body has been read, or, of a stream, is still to be read.
        body: the arguments `json`, `data` and `files` of an httpx2 request.
        accepted: statuses of 400 and above that are answers, too.
        streams: whether the body is read as it arrives; the sender of the call then closes the response.
        draws_noise: whether noise is drawn for it, which the gateway stops when the caller disconnects. Another
            attempt would start from zero under another seed, and drawing until one is decided in time uses up alpha.
        deadline_s: when the gateway is to answer, in seconds from the request.
        timeout_advice: what to do where no answer comes in time, for the message.
    """

    method: str
    path: str
    read: Callable[[httpx2.Response], T]
    query: Mapping[str, str] = field(default_factory=dict[str, str])
    headers: Mapping[str, str] = field(default_factory=dict[str, str])
    body: Mapping[str, Any] = field(default_factory=dict[str, Any])
    timeout: httpx2.Timeout | None = None
    accepted: frozenset[int] = frozenset()
    streams: bool = False
    draws_noise: bool = False
    deadline_s: float | None = None
    timeout_advice: str = "pass a longer `timeout`"


def get(path: str, read: Callable[[httpx2.Response], T], **more: Any) -> Call[T]:
    """A call that changes nothing."""
    return Call(method="GET", path=path, read=read, **more)


def post(
    path: str,
    read: Callable[[httpx2.Response], T],
    *,
    key: str | None = None,
    headers: Mapping[str, str] | None = None,
    **more: Any,
) -> Call[T]:
    """A call that does something, under one idempotency key for all its attempts.

    By the key a gateway that was full recognises callers that it sent away, and admits them first when they return.
    """
    named = {"Idempotency-Key": key or uuid.uuid4().hex, **(headers or {})}
    return Call(method="POST", path=path, read=read, headers=named, **more)


def answer(model: type[M]) -> Callable[[httpx2.Response], M]:
    """Reads a JSON answer into a wire model; an `APIResponseError` where it is not one."""

    def read(response: httpx2.Response) -> M:
        try:
            return model.model_validate_json(response.content)
        except ValidationError as error:
            raise APIResponseError(
                f"{response.request.url} answered something that is not a {model.__name__}; check that the "
                "address is a SPACTE gateway's and that its version fits this client's."
            ) from error

    return read


def open_response(response: httpx2.Response) -> httpx2.Response:
    """The answer of a stream: the response, whose body is still to be read."""
    return response


def path_segment(value: str, what: str) -> str:
    """`value` as one segment of a path; refused where it is empty or dots, which would name another route."""
    if value in ("", ".", ".."):
        raise InvalidArgumentError(f"The {what} {value!r} cannot exist; pass the one that the gateway gave.")
    return quote(value, safe="")


def certify(
    image: Image, options: Mapping[str, Any], *, key: str | None = None, timeout: Timeout | None = None
) -> Call[Certificate]:
    """`POST /v1/certify`."""
    params = validated(CertifyParams, options, "certify")
    return post("/v1/certify", answer(Certificate), key=key, **_noise_call(image, params, timeout))


def certify_stream(
    image: Image, options: Mapping[str, Any], *, timeout: Timeout | None = None
) -> Call[httpx2.Response]:
    """`POST /v1/certify/stream`."""
    more = _noise_call(image, validated(CertifyParams, options, "certify_stream"), timeout)
    return post("/v1/certify/stream", open_response, headers=EVENTS, streams=True, **more)


def predict(image: Image, options: Mapping[str, Any], *, timeout: Timeout | None = None) -> Call[Prediction]:
    """`POST /v1/predict`."""
    params = validated(PredictParams, options, "predict")
    return post("/v1/predict", answer(Prediction), **_noise_call(image, params, timeout))


def predict_set(image: Image, options: Mapping[str, Any], *, timeout: Timeout | None = None) -> Call[PredictionSet]:
    """`POST /v1/sets`."""
    params = validated(SetParams, options, "predict_set")
    return post("/v1/sets", answer(PredictionSet), **_noise_call(image, params, timeout))


def bracket(image: Image, options: Mapping[str, Any], *, timeout: Timeout | None = None) -> Call[Bracket]:
    """`POST /v1/brackets`."""
    params = validated(BracketParams, options, "bracket")
    return post("/v1/brackets", answer(Bracket), **_noise_call(image, params, timeout))


def check_many(options: Mapping[str, Any], concurrency: int) -> None:
    """Refuse wrong arguments of `certify_many` before the first image is taken."""
    if concurrency < 1:
        raise InvalidArgumentError("`concurrency` is the number of requests in flight; pass 1 or more.")
    validated(CertifyParams, options, "certify_many")


def list_models() -> Call[list[Model]]:
    """`GET /v1/models`."""
    read = answer(ModelList)
    return get("/v1/models", lambda response: read(response).data)


def get_model(name: str) -> Call[Model]:
    """`GET /v1/models/{name}`."""
    return get(f"/v1/models/{path_segment(name, 'model name')}", answer(Model))


def load_model(name: str, traffic: float | None, source: str | None) -> Call[Model]:
    """`POST /v1/models/{name}/load`."""
    asked = {key: value for key, value in (("traffic", traffic), ("source", source)) if value is not None}
    body = {"json": asked} if asked else {}
    return post(f"/v1/models/{path_segment(name, 'model name')}/load", answer(Model), body=body)


def unload_model(name: str) -> Call[Model]:
    """`POST /v1/models/{name}/unload`."""
    return post(f"/v1/models/{path_segment(name, 'model name')}/unload", answer(Model))


def divide_traffic(name: str, weights: Mapping[str, float]) -> Call[Model]:
    """`PUT /v1/models/{name}/traffic`."""
    path = f"/v1/models/{path_segment(name, 'model name')}/traffic"
    return Call(method="PUT", path=path, read=answer(Model), body={"json": {"weights": dict(weights)}})


def signing_keys() -> Call[list[SigningKey]]:
    """`GET /v1/signing-keys`."""
    read = answer(SigningKeyList)
    return get("/v1/signing-keys", lambda response: read(response).data)


def info() -> Call[Info]:
    """`GET /v1/info`."""
    return get("/v1/info", answer(Info))


def health() -> Call[Health]:
    """`GET /readyz`. A 503 is an answer, too: it says what is missing."""
    return get("/readyz", answer(Health), accepted=frozenset({503}))


def _noise_call(image: Image, params: ImageParams, timeout: Timeout | None) -> dict[str, Any]:
    """What the calls that have noise drawn have in common. Options that were not given are the gateway's defaults."""
    deadline_ms = params.deadline_ms if isinstance(params, CertifyParams) else None
    if deadline_ms is not None:
        advice = "pass a `timeout` that leaves the gateway more time beyond its `deadline_ms`"
    elif isinstance(params, CertifyParams):
        advice = "pass a longer `timeout`, or a `deadline_ms` to get what is proven by then"
    else:
        advice = "pass a longer `timeout` or a smaller `n`"
    encoded, options = encode_image(image), params.model_dump(mode="json", exclude_unset=True)
    if isinstance(encoded, FileImage):
        body = {"json": options | {"image": encoded.model_dump()}}
    else:
        body = {"data": {"params": json.dumps(options)}, "files": {"image": ("image", encoded)}}
    return {
        "body": body,
        "timeout": None if timeout is None else as_timeout(timeout),
        "draws_noise": True,
        "deadline_s": None if deadline_ms is None else deadline_ms / 1000,
        "timeout_advice": advice,
    }
