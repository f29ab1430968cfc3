"""SPACTE's Python SDK: predictions with certified radii from a gateway, over HTTP.

    from spacte_client import Client

    certificate = Client().certify("digit.png", n=10_000)

`Client` blocks, `AsyncClient` is awaited; `spacte_client.types` holds every request, answer, event and
problem. All names but exceptions are imported on first use, so that the command line starts at once.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from . import _exceptions
from ._exceptions import *  # noqa: F403

if TYPE_CHECKING:
    from ._async_client import AsyncClient
    from ._client import Client
    from ._images import Image, ImageLike
    from ._job_streams import Record
    from ._options import CertifyOptions, JobOptions, PredictOptions
    from ._pages import AsyncPage, Page
    from ._streams import AsyncCertifyStream, CertifyStream, StreamEvent
    from ._uploads import Upload
    from ._version import __version__

__all__ = [
    "AsyncCertifyStream",
    "AsyncClient",
    "AsyncPage",
    "CertifyOptions",
    "CertifyStream",
    "Client",
    "Image",
    "ImageLike",
    "JobOptions",
    "Page",
    "PredictOptions",
    "Record",
    "StreamEvent",
    "Upload",
    "__version__",
]
__all__ += _exceptions.__all__

_MODULES = {
    "AsyncCertifyStream": "_streams",
    "AsyncClient": "_async_client",
    "AsyncPage": "_pages",
    "CertifyOptions": "_options",
    "CertifyStream": "_streams",
    "Client": "_client",
    "Image": "_images",
    "ImageLike": "_images",
    "JobOptions": "_options",
    "Page": "_pages",
    "PredictOptions": "_options",
    "Record": "_job_streams",
    "StreamEvent": "_streams",
    "Upload": "_uploads",
    "__version__": "_version",
}
"""The modules of the names that are imported on first use."""


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f".{_MODULES[name]}", __name__), name)


def __dir__() -> list[str]:
    return __all__
