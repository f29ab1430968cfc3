"""The client on asyncio: the same as `Client`, awaited.

async with AsyncClient() as client:
    certificate = await client.certify("digit.png", n=10_000)
"""

# ruff: noqa: ASYNC109 - `timeout` is the name in the blocking twin

import asyncio
from collections.abc import AsyncIterator, Iterable
from typing import Self, Unpack

import httpx2

from . import _calls as calls
from ._async_resources import AsyncFiles, AsyncJobs, AsyncModels
from ._connection import AsyncConnection
from ._constants import CONCURRENCY, MAX_RETRIES
from ._images import Image
from ._map_in_order import amap_in_order
from ._options import BracketOptions, CertifyOptions, PredictOptions, SetOptions
from ._settings import Timeout, resolve_settings
from ._streams import AsyncCertifyStream
from .types import Bracket, Certificate, Health, Info, Prediction, PredictionSet, SetMethod, SigningKey


class AsyncClient:
    """A connection to a gateway, for one event loop; see `Client` for arguments, attributes and errors."""

    def __init__(
        self,
        base_url: str | None = None,
        api_key: str | None = None,
        *,
        timeout: Timeout | None = None,
        max_retries: int = MAX_RETRIES,
        transport: httpx2.AsyncBaseTransport | None = None,
    ) -> None:
        self._connection = AsyncConnection(resolve_settings(base_url, api_key, timeout, max_retries), transport)
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
        timeout: Timeout | None = None,
        idempotency_key: str | None = None,
        **options: Unpack[CertifyOptions],
    ) -> Certificate:
        """A label and a certified L2 radius; see `Client.certify`."""
        call = await asyncio.to_thread(calls.certify, image, options, key=idempotency_key, timeout=timeout)
        return await self._connection.send(call)

    async def predict(
        self, image: Image, *, timeout: Timeout | None = None, **options: Unpack[PredictOptions]
    ) -> Prediction:
        """What the smoothed classifier answers; see `Client.predict`."""
        return await self._connection.send(await asyncio.to_thread(calls.predict, image, options, timeout=timeout))

    async def predict_set(
        self,
        image: Image,
        *,
        alpha: float = 0.1,
        radius: float,
        method: SetMethod = "rcp1",
        timeout: Timeout | None = None,
        **options: Unpack[SetOptions],
    ) -> PredictionSet:
        """Classes that hold the true one; see `Client.predict_set`."""
        asked = {"alpha": alpha, "radius": radius, "method": method, **options}
        return await self._connection.send(await asyncio.to_thread(calls.predict_set, image, asked, timeout=timeout))

    async def bracket(
        self, image: Image, *, timeout: Timeout | None = None, **options: Unpack[BracketOptions]
    ) -> Bracket:
        """The certified radius from both sides; see `Client.bracket`."""
        return await self._connection.send(await asyncio.to_thread(calls.bracket, image, options, timeout=timeout))

    def certify_stream(
        self, image: Image, *, timeout: Timeout | None = None, **options: Unpack[CertifyOptions]
    ) -> AsyncCertifyStream:
        """A certificate while it is being proven; use it in `async with`. See `Client.certify_stream`."""
        return AsyncCertifyStream(self._connection, calls.certify_stream(image, options, timeout=timeout))

    def certify_many(
        self,
        images: Iterable[Image],
        *,
        concurrency: int = CONCURRENCY,
        timeout: Timeout | None = None,
        **options: Unpack[CertifyOptions],
    ) -> AsyncIterator[Certificate]:
        """Certificates of many images, in order, as they are ready; see `Client.certify_many`."""
        calls.check_many(options, concurrency)
        return amap_in_order(lambda image: self.certify(image, timeout=timeout, **options), images, concurrency)

    async def signing_keys(self) -> list[SigningKey]:
        """The public keys of the service's signatures, the one that signs now last."""
        return await self._connection.send(calls.signing_keys())

    async def info(self) -> Info:
        """The service's version and every limit that a request is held to."""
        return await self._connection.send(calls.info())

    async def health(self) -> Health:
        """Whether requests are being served, and if not, what is missing."""
        return await self._connection.send(calls.health())

    async def close(self) -> None:
        """Close the connections."""
        await self._connection.close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    def __repr__(self) -> str:
        return f"{type(self).__name__}(base_url={self.base_url!r})"
