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
from ._options import checked
from ._settings import Timeout, as_timeout
from .types import Certificate, CertifyParams, FileImage, Health, Info, Model, ModelList, Prediction, PredictParams

T = TypeVar("T")
M = TypeVar("M", bound=BaseModel)


@dataclass(frozen=True, slots=True, kw_only=True)
class Call(Generic[T]):
    """A logical call: every attempt at it sends the same bytes and the same idempotency key.

    Attributes:
        read: the answer from a response whose body has been read.
        answers: statuses of 400 and above that are answers all the same.
        draws: whether noise is drawn for it, which a gateway gives up when the caller does. Another attempt would
            start from zero under another seed, and drawing again until it is decided in time would use up alpha.
        deadline_s: when the gateway is to answer, in seconds from the request.
        when_late: what to do where no answer comes in time, for the message.
    """

    method: str
    path: str
    read: Callable[[httpx2.Response], T]
    query: Mapping[str, str] = field(default_factory=dict[str, str])
    headers: Mapping[str, str] = field(default_factory=dict[str, str])
    json: Any = None
    form: Mapping[str, str] | None = None
    files: Mapping[str, Any] | None = None
    timeout: httpx2.Timeout | None = None
    answers: frozenset[int] = frozenset()
    draws: bool = False
    deadline_s: float | None = None
    when_late: str = "pass a longer `timeout`"


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

    By that key a gateway that was full knows whom it told to come back, and lets them in first.
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


def segment(value: str, what: str) -> str:
    """`value` as one segment of a path.

    Raises:
        InvalidArgumentError: it is empty or a dot, which would name another route.
    """
    if value in ("", ".", ".."):
        raise InvalidArgumentError(f"The {what} {value!r} cannot exist; pass the one that the gateway gave.")
    return quote(value, safe="")


def certify(
    image: bytes | FileImage, options: Mapping[str, Any], *, key: str | None, timeout: Timeout | None
) -> Call[Certificate]:
    """`POST /v1/certify`."""
    drawing = _drawing(image, checked(CertifyParams, options, "certify"), timeout)
    return post("/v1/certify", answer(Certificate), key=key, **drawing)


def certify_stream(image: bytes | FileImage, options: Mapping[str, Any], *, timeout: Timeout | None) -> Call[None]:
    """`POST /v1/certify/stream`; its answer is read event by event."""
    drawing = _drawing(image, checked(CertifyParams, options, "certify_stream"), timeout)
    accept = {"Accept": "text/event-stream, application/problem+json"}
    return post("/v1/certify/stream", lambda _: None, headers=accept, **drawing)


def predict(image: bytes | FileImage, options: Mapping[str, Any], *, timeout: Timeout | None) -> Call[Prediction]:
    """`POST /v1/predict`."""
    drawing = _drawing(image, checked(PredictParams, options, "predict"), timeout)
    return post("/v1/predict", answer(Prediction), **drawing)


def list_models() -> Call[list[Model]]:
    """`GET /v1/models`."""
    read = answer(ModelList)
    return get("/v1/models", lambda response: read(response).data)


def get_model(name: str) -> Call[Model]:
    """`GET /v1/models/{name}`."""
    return get(f"/v1/models/{segment(name, 'model name')}", answer(Model))


def change_model(name: str, verb: str) -> Call[Model]:
    """`POST /v1/models/{name}/load` or `/unload`."""
    return post(f"/v1/models/{segment(name, 'model name')}/{verb}", answer(Model))


def info() -> Call[Info]:
    """`GET /v1/info`."""
    return get("/v1/info", answer(Info))


def health() -> Call[Health]:
    """`GET /readyz`: 503 says what is missing, which is the answer to this question."""
    return get("/readyz", answer(Health), answers=frozenset({503}))


def _drawing(image: bytes | FileImage, params: PredictParams, timeout: Timeout | None) -> dict[str, Any]:
    """What the calls that have noise drawn have in common."""
    deadline_ms = params.deadline_ms if isinstance(params, CertifyParams) else None
    when_late = "pass a longer `timeout` or a smaller `n`"
    if deadline_ms is not None:
        when_late = "pass a `timeout` that leaves the gateway more time beyond its `deadline_ms`"
    elif isinstance(params, CertifyParams):
        when_late = "pass a longer `timeout`, or a `deadline_ms` to get what is proven by then"
    return {
        **_body(image, params),
        "timeout": None if timeout is None else as_timeout(timeout),
        "draws": True,
        "deadline_s": None if deadline_ms is None else deadline_ms / 1000,
        "when_late": when_late,
    }


def _body(image: bytes | FileImage, params: PredictParams) -> dict[str, Any]:
    """Options that were given, and no others: the rest are the gateway's defaults."""
    given = params.model_dump(mode="json", exclude_unset=True)
    if isinstance(image, FileImage):
        return {"json": given | {"image": image.model_dump()}}
    return {"form": {"params": json.dumps(given)}, "files": {"image": ("image", image)}}
