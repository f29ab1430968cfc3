"""SPACTE's Python SDK: predictions with certified radii from a gateway, over HTTP.

    from spacte_client import Client

    certificate = Client().certify("digit.png", n=10_000)

`Client` blocks, `AsyncClient` is awaited; `spacte_client.types` holds every request, answer, event and
problem. Names are imported when they are first used, so that the command line starts at once.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ._async_client import AsyncClient
    from ._client import Client
    from ._exceptions import (
        APIConnectionError,
        APIError,
        APIResponseError,
        APIStatusError,
        APITimeoutError,
        AuthenticationError,
        BadRequestError,
        ConflictError,
        DeadlineExceededError,
        InternalServerError,
        InvalidArgumentError,
        NotFoundError,
        OverloadedError,
        PermissionDeniedError,
        RateLimitError,
        RequestTooLargeError,
        ServiceUnavailableError,
        SpacteError,
        UnprocessableEntityError,
        WaitTimeoutError,
    )
    from ._images import Image, ImageLike
    from ._job_streams import Record
    from ._options import CertifyOptions, PredictOptions
    from ._pages import AsyncPage, Page
    from ._streams import AsyncCertifyStream, CertifyStream, StreamEvent
    from ._uploads import Upload
    from ._version import __version__

_HOMES = {
    "AsyncCertifyStream": "_streams",
    "AsyncClient": "_async_client",
    "AsyncPage": "_pages",
    "CertifyOptions": "_options",
    "CertifyStream": "_streams",
    "Client": "_client",
    "Image": "_images",
    "ImageLike": "_images",
    "Page": "_pages",
    "PredictOptions": "_options",
    "Record": "_job_streams",
    "StreamEvent": "_streams",
    "Upload": "_uploads",
    "__version__": "_version",
}
"""Where the public names are that are not exceptions."""

__all__ = [
    "APIConnectionError",
    "APIError",
    "APIResponseError",
    "APIStatusError",
    "APITimeoutError",
    "AsyncCertifyStream",
    "AsyncClient",
    "AsyncPage",
    "AuthenticationError",
    "BadRequestError",
    "CertifyOptions",
    "CertifyStream",
    "Client",
    "ConflictError",
    "DeadlineExceededError",
    "Image",
    "ImageLike",
    "InternalServerError",
    "InvalidArgumentError",
    "NotFoundError",
    "OverloadedError",
    "Page",
    "PermissionDeniedError",
    "PredictOptions",
    "RateLimitError",
    "Record",
    "RequestTooLargeError",
    "ServiceUnavailableError",
    "SpacteError",
    "StreamEvent",
    "UnprocessableEntityError",
    "Upload",
    "WaitTimeoutError",
    "__version__",
]


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f".{_HOMES.get(name, '_exceptions')}", __name__), name)


def __dir__() -> list[str]:
    return __all__
