"""Sending calls: attempts, pauses between them, httpx2's errors as our own. Once blocking, once on asyncio."""

import asyncio
import logging
import time
from collections.abc import Generator
from contextlib import aclosing, closing, contextmanager
from typing import Any, TypeVar
from urllib.parse import urlsplit
from urllib.request import getproxies, proxy_bypass

import httpx2

from ._calls import Call
from ._constants import BASE_URL_VARIABLE, KEPT_CONNECTIONS
from ._exceptions import APIConnectionError, APIError, APIResponseError, APITimeoutError, InvalidArgumentError
from ._problems import error_from_response
from ._retries import Backoff
from ._settings import Settings
from .environment import blamed

T = TypeVar("T")

log = logging.getLogger("spacte_client")

_LIMITS = httpx2.Limits(max_connections=None, max_keepalive_connections=KEPT_CONNECTIONS)


class Connection:
    """Sends calls and blocks until they are answered. Safe to use from several threads.

    An `InvalidArgumentError` names the variables of the environment with which no connection can be set up.
    """

    def __init__(self, settings: Settings, transport: httpx2.BaseTransport | None = None) -> None:
        self.settings = settings
        with blamed(InvalidArgumentError):
            self._http = httpx2.Client(headers=settings.headers(), transport=transport, limits=_LIMITS)
        self.close = self._http.close

    def send(self, call: Call[T]) -> T:
        """The answer to `call`, after as many attempts as it takes and the settings allow.

        Raises:
            APIError: the last attempt failed.
        """
        backoff = Backoff(self.settings.max_retries, draws_noise=call.draws_noise)
        while True:
            try:
                with transport_errors(self.settings, call):
                    response = self._http.send(_request(self._http, self.settings, call), stream=call.streams)
                    if not _is_answer(response, call):
                        with closing(response):
                            response.read()
                        raise _refusal(response)
                return call.read(response)
            except APIError as error:
                delay = _delay_after(error, backoff, call)
            time.sleep(delay)


class AsyncConnection:
    """Sends calls from a coroutine."""

    def __init__(self, settings: Settings, transport: httpx2.AsyncBaseTransport | None = None) -> None:
        self.settings = settings
        with blamed(InvalidArgumentError):
            self._http = httpx2.AsyncClient(headers=settings.headers(), transport=transport, limits=_LIMITS)
        self.close = self._http.aclose

    async def send(self, call: Call[T]) -> T:
        """The answer to `call`; see `Connection.send`."""
        backoff = Backoff(self.settings.max_retries, draws_noise=call.draws_noise)
        while True:
            try:
                with transport_errors(self.settings, call):
                    response = await self._http.send(_request(self._http, self.settings, call), stream=call.streams)
                    if not _is_answer(response, call):
                        async with aclosing(response):
                            await response.aread()
                        raise _refusal(response)
                return call.read(response)
            except APIError as error:
                delay = _delay_after(error, backoff, call)
            await asyncio.sleep(delay)


@contextmanager
def transport_errors(settings: Settings, call: Call[Any]) -> Generator[None]:
    """Turn what httpx2 raises while `call` is made into errors of this package that name the remedy."""
    try:
        yield
    except (httpx2.TransportError, httpx2.DecodingError, UnicodeError) as error:  # the last of a proxy's name
        raise _connection_error(error, settings.base_url, call.timeout_advice) from error


def _request(http: httpx2.Client | httpx2.AsyncClient, settings: Settings, call: Call[Any]) -> httpx2.Request:
    return http.build_request(
        call.method,
        settings.base_url + call.path,
        params=dict(call.query) or None,
        headers=dict(call.headers),
        timeout=settings.attempt_timeout(call.timeout, call.deadline_s),
        **call.body,
    )


def _is_answer(response: httpx2.Response, call: Call[Any]) -> bool:
    return response.is_success or response.status_code in call.accepted


def _refusal(response: httpx2.Response) -> APIError:
    """The error for a response that is not an answer and has been read."""
    if response.status_code >= 400:
        return error_from_response(response)
    where = response.headers.get("location", "elsewhere")
    return APIResponseError(
        f"{response.request.url} answered {response.status_code} and points to {where}; "
        "give the gateway's own address as the base URL."
    )


def _delay_after(error: APIError, backoff: Backoff, call: Call[Any]) -> float:
    """Seconds until the next attempt; raises `error` where there is to be none."""
    delay = backoff.delay_after(error)
    if delay is None:
        raise error
    log.info("%s %s failed (%s); again in %.1f s", call.method, call.path, error, delay)
    return delay


def _proxy_of(address: str) -> str | None:
    """Host and port of the proxy that the environment names for an address, without its password."""
    url = urlsplit(address)
    proxies = getproxies()
    proxy = proxies.get(url.scheme, proxies.get("all"))
    if proxy is None or proxy_bypass(url.hostname or ""):
        return None
    return proxy.rpartition("@")[2].rpartition("/")[2] or proxy


def _connection_error(error: Exception, address: str, timeout_advice: str) -> APIConnectionError:
    if isinstance(error, httpx2.ConnectTimeout):
        return APITimeoutError(
            f"{address} did not take a connection in time; check the address ({BASE_URL_VARIABLE}) and the network."
        )
    if isinstance(error, httpx2.TimeoutException):
        sent = isinstance(error, httpx2.ReadTimeout)
        return APITimeoutError(f"{address} did not answer in time; {timeout_advice}.", sent=sent)
    if not isinstance(error, httpx2.ConnectError | UnicodeError):
        reason = str(error) or type(error).__name__
        return APIConnectionError(f"The connection to {address} broke ({reason}); try again.")
    if "CERTIFICATE_VERIFY_FAILED" in str(error):
        return APIConnectionError(
            f"The certificate of {address} is not trusted ({error}); have SSL_CERT_FILE name the certificate of its "
            "authority, or give the address by a name that the certificate holds."
        )
    if "[SSL" in str(error):
        return APIConnectionError(
            f"{address} does not speak HTTPS as it should ({error}); check its port, or give an http address."
        )
    if proxy := _proxy_of(address):
        return APIConnectionError(
            f"The proxy {proxy}, by which the environment has {address} reached, does not answer ({error}); correct or "
            "unset its variable (HTTP_PROXY, HTTPS_PROXY or ALL_PROXY), or name the gateway's host in NO_PROXY."
        )
    return APIConnectionError(
        f"Nothing answers at {address} ({error}); start a gateway with `spacte serve`, or give its address as the "
        f"base URL ({BASE_URL_VARIABLE})."
    )
