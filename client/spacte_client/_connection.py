"""Sending calls: attempts, pauses between them, transport errors as ours. Once blocking, once on asyncio."""

import asyncio
import logging
import time
from collections.abc import Generator
from contextlib import contextmanager
from typing import Any, TypeVar

import httpx2

from ._calls import Call
from ._exceptions import APIConnectionError, APIError, APIResponseError, APITimeoutError
from ._problems import error_from_response
from ._retries import Attempts
from ._settings import BASE_URL_VARIABLE, Settings

T = TypeVar("T")

log = logging.getLogger("spacte_client")


class Connection:
    """Sends calls and blocks until they are answered. Safe to use from several threads."""

    def __init__(self, settings: Settings, transport: httpx2.BaseTransport | None = None) -> None:
        self.settings = settings
        self._http = httpx2.Client(
            headers=settings.headers(), timeout=settings.timeout, transport=transport, limits=_LIMITS
        )

    def send(self, call: Call[T]) -> T:
        """The answer to `call`, after as many attempts as it takes and the settings allow.

        Raises:
            APIError: the last attempt failed.
        """
        response = self._attempt(call, stream=False)
        return call.read(response)

    def open(self, call: Call[Any]) -> httpx2.Response:
        """A response whose body is still to be read; the caller closes it.

        Raises:
            APIError: the last attempt failed.
        """
        return self._attempt(call, stream=True)

    def close(self) -> None:
        """Let go of the connections."""
        self._http.close()

    def _attempt(self, call: Call[Any], *, stream: bool) -> httpx2.Response:
        attempts = Attempts(self.settings.max_retries, draws=call.draws)
        while True:
            try:
                return self._exchange(call, stream=stream)
            except APIError as error:
                delay = attempts.delay_after(error)
                if delay is None:
                    raise
                _log_retry(call, error, delay)
            time.sleep(delay)

    def _exchange(self, call: Call[Any], *, stream: bool) -> httpx2.Response:
        request = self._http.build_request(**_arguments(self.settings, call))
        with transport_errors(self.settings, call):
            response = self._http.send(request, stream=stream)
            if is_answer(call, response):
                return response
            try:
                response.read()
            finally:
                response.close()
        raise unexpected(response)


class AsyncConnection:
    """Sends calls from a coroutine."""

    def __init__(self, settings: Settings, transport: httpx2.AsyncBaseTransport | None = None) -> None:
        self.settings = settings
        self._http = httpx2.AsyncClient(
            headers=settings.headers(), timeout=settings.timeout, transport=transport, limits=_LIMITS
        )

    async def send(self, call: Call[T]) -> T:
        """The answer to `call`; see `Connection.send`."""
        response = await self._attempt(call, stream=False)
        return call.read(response)

    async def open(self, call: Call[Any]) -> httpx2.Response:
        """A response whose body is still to be read; see `Connection.open`."""
        return await self._attempt(call, stream=True)

    async def close(self) -> None:
        """Let go of the connections."""
        await self._http.aclose()

    async def _attempt(self, call: Call[Any], *, stream: bool) -> httpx2.Response:
        attempts = Attempts(self.settings.max_retries, draws=call.draws)
        while True:
            try:
                return await self._exchange(call, stream=stream)
            except APIError as error:
                delay = attempts.delay_after(error)
                if delay is None:
                    raise
                _log_retry(call, error, delay)
            await asyncio.sleep(delay)

    async def _exchange(self, call: Call[Any], *, stream: bool) -> httpx2.Response:
        request = self._http.build_request(**_arguments(self.settings, call))
        with transport_errors(self.settings, call):
            response = await self._http.send(request, stream=stream)
            if is_answer(call, response):
                return response
            try:
                await response.aread()
            finally:
                await response.aclose()
        raise unexpected(response)


_LIMITS = httpx2.Limits(max_connections=None, max_keepalive_connections=32)
"""The callers decide how many requests are in flight; 32 connections are kept for the next ones."""


def _arguments(settings: Settings, call: Call[Any]) -> dict[str, Any]:
    return {
        "method": call.method,
        "url": settings.base_url + call.path,
        "params": dict(call.query) or None,
        "headers": dict(call.headers),
        "json": call.json,
        "data": call.form,
        "files": call.files,
        "timeout": settings.limits(call.timeout, call.deadline_s),
    }


def is_answer(call: Call[Any], response: httpx2.Response) -> bool:
    """Whether the response is what `call` asked for."""
    return response.is_success or response.status_code in call.answers


def unexpected(response: httpx2.Response) -> APIError:
    """The error for a response, read, that is not an answer."""
    if response.status_code >= 400:
        return error_from_response(response)
    where = response.headers.get("location", "elsewhere")
    return APIResponseError(
        f"{response.request.url} answered {response.status_code} and points to {where}; "
        "give the gateway's own address as the base URL."
    )


@contextmanager
def transport_errors(settings: Settings, call: Call[Any]) -> Generator[None]:
    """Raise what httpx2 raises while `call` is made as errors of this package, with the remedy."""
    try:
        yield
    except httpx2.ConnectTimeout as error:
        raise APITimeoutError(
            f"{settings.base_url} did not take a connection in time; check the address ({BASE_URL_VARIABLE}) "
            "and the network."
        ) from error
    except httpx2.TimeoutException as error:
        raise APITimeoutError(
            f"{settings.base_url} did not answer in time; {call.when_late}.", sent=isinstance(error, httpx2.ReadTimeout)
        ) from error
    except httpx2.ConnectError as error:
        if "CERTIFICATE_VERIFY_FAILED" in str(error):
            raise APIConnectionError(
                f"The certificate of {settings.base_url} is not trusted ({error}); have SSL_CERT_FILE name the "
                "certificate of its authority, or give the address by a name that the certificate holds."
            ) from error
        if "[SSL" in str(error):
            raise APIConnectionError(
                f"{settings.base_url} does not speak HTTPS as it should ({error}); check its port, or give an "
                "http address."
            ) from error
        raise APIConnectionError(
            f"Nothing answers at {settings.base_url} ({error}); start a gateway with `spacte serve`, or give "
            f"its address as the base URL ({BASE_URL_VARIABLE})."
        ) from error
    except (httpx2.TransportError, httpx2.DecodingError) as error:
        raise APIConnectionError(
            f"The connection to {settings.base_url} broke ({str(error) or type(error).__name__}); try again."
        ) from error


def _log_retry(call: Call[Any], error: APIError, delay: float) -> None:
    log.info("%s %s failed (%s); again in %.1f s", call.method, call.path, error, delay)
