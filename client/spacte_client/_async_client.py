"""The client on asyncio: the same as `Client`, awaited.

async with AsyncClient() as client:
    certificate = await client.certify("digit.png", n=10_000)
"""

import asyncio
from collections.abc import AsyncIterator, Iterable
from types import TracebackType
from typing import Self, Unpack

import httpx2

from . import _calls as calls
from ._async_resources import AsyncFiles, AsyncJobs, AsyncModels
from ._connection import AsyncConnection
from ._images import Image, encode_image
from ._many import DEFAULT_CONCURRENCY, amap_in_order, check_concurrency
from ._options import CertifyOptions, PredictOptions, checked
from ._settings import DEFAULT_MAX_RETRIES, Timeout, settings
from ._streams import AsyncCertifyStream
from .types import Certificate, CertifyParams, Health, Info, Prediction


class AsyncClient:
    """A connection to a gateway, for one event loop; see `Client` for arguments, attributes and errors."""

    def __init__(
        self,
        base_url: str | None = None,
        api_key: str | None = None,
        *,
        timeout: Timeout | None = None,
        max_retries: int = DEFAULT_MAX_RETRIES,
        transport: httpx2.AsyncBaseTransport | None = None,
    ) -> None:
        self._connection = AsyncConnection(settings(base_url, api_key, timeout, max_retries), transport)
        self.models = AsyncModels(self._connection)
        self.files = AsyncFiles(self._connection)
        self.jobs = AsyncJobs(self._connection)

    @property
    def base_url(self) -> str:
        """The gateway's address."""
        return self._connection.settings.base_url

    async def certify(
        self,
        image: Image,
        *,
        timeout: Timeout | None = None,  # noqa: ASYNC109 - the blocking twin's name
        idempotency_key: str | None = None,
        **options: Unpack[CertifyOptions],
    ) -> Certificate:
        """A label and a certified L2 radius; see `Client.certify`."""
        checked(CertifyParams, options, "certify")
        data = await asyncio.to_thread(encode_image, image)
        return await self._connection.send(calls.certify(data, options, key=idempotency_key, timeout=timeout))

    async def predict(
        self,
        image: Image,
        *,
        timeout: Timeout | None = None,  # noqa: ASYNC109
        **options: Unpack[PredictOptions],
    ) -> Prediction:
        """What the smoothed classifier answers; see `Client.predict`."""
        data = await asyncio.to_thread(encode_image, image)
        return await self._connection.send(calls.predict(data, options, timeout=timeout))

    def certify_stream(
        self, image: Image, *, timeout: Timeout | None = None, **options: Unpack[CertifyOptions]
    ) -> AsyncCertifyStream:
        """A certificate while it is being proven; use it in `async with`. See `Client.certify_stream`."""
        call = calls.certify_stream(encode_image(image), options, timeout=timeout)
        return AsyncCertifyStream(self._connection, call)

    def certify_many(
        self,
        images: Iterable[Image],
        *,
        concurrency: int = DEFAULT_CONCURRENCY,
        timeout: Timeout | None = None,
        **options: Unpack[CertifyOptions],
    ) -> AsyncIterator[Certificate]:
        """Certificates of many images, in order, as they are ready; see `Client.certify_many`."""
        check_concurrency(concurrency)
        checked(CertifyParams, options, "certify_many")

        async def one(image: Image) -> Certificate:
            return await self.certify(image, timeout=timeout, **options)

        return amap_in_order(one, images, concurrency)

    async def info(self) -> Info:
        """The service's version and every limit that a request is held to."""
        return await self._connection.send(calls.info())

    async def health(self) -> Health:
        """Whether requests are being served, and if not, what is missing."""
        return await self._connection.send(calls.health())

    async def close(self) -> None:
        """Let go of the connections."""
        await self._connection.close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    def __repr__(self) -> str:
        return f"{type(self).__name__}(base_url={self.base_url!r})"
