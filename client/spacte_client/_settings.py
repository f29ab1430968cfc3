"""Where the gateway is and how to speak to it: arguments, then the environment, then the defaults."""

import os
import platform
from dataclasses import dataclass, field

import httpx2

from ._exceptions import InvalidArgumentError
from ._version import __version__

BASE_URL_VARIABLE = "SPACTE_BASE_URL"
API_KEY_VARIABLE = "SPACTE_API_KEY"
DEFAULT_BASE_URL = "http://127.0.0.1:8000"

CONNECT_TIMEOUT_S = 5.0
_DEFAULT_S = 600.0
DEFAULT_TIMEOUT = httpx2.Timeout(_DEFAULT_S, connect=CONNECT_TIMEOUT_S)
"""Ten minutes for an answer, as 100,000 noises on a CPU take minutes; five seconds to connect."""

DEADLINE_MARGIN_S = 60.0
"""How long after its `deadline_ms` an answer is still awaited by default: it has waited its turn, and travels."""

DEFAULT_MAX_RETRIES = 2

Timeout = float | httpx2.Timeout


@dataclass(frozen=True, slots=True)
class Settings:
    """What both clients are made with. The API key is left out of its `repr`."""

    base_url: str
    api_key: str | None = field(repr=False)
    timeout: httpx2.Timeout
    max_retries: int
    timeout_given: bool = True

    def limits(self, timeout: httpx2.Timeout | None, deadline_s: float | None) -> httpx2.Timeout:
        """The limits of an attempt: the call's own, the client's, or by default what leaves a deadline its time."""
        if timeout is not None or self.timeout_given or deadline_s is None:
            return timeout or self.timeout
        seconds = max(_DEFAULT_S, deadline_s + DEADLINE_MARGIN_S)
        return httpx2.Timeout(seconds, connect=CONNECT_TIMEOUT_S)

    def headers(self) -> dict[str, str]:
        """What goes with every request."""
        headers = {
            "Accept": "application/json, application/problem+json",
            "User-Agent": f"spacte-client/{__version__} python/{platform.python_version()}",
        }
        if self.api_key:
            headers["Authorization"] = f"Bearer {self.api_key}"
        return headers


def settings(base_url: str | None, api_key: str | None, timeout: Timeout | None, max_retries: int) -> Settings:
    """Settings from a client's arguments and the environment.

    Raises:
        InvalidArgumentError: one of them cannot be used; the sentence says what would do.
    """
    if max_retries < 0:
        raise InvalidArgumentError("`max_retries` is a number of further attempts; pass 0 for none.")
    return Settings(
        _base_url(base_url or os.environ.get(BASE_URL_VARIABLE) or DEFAULT_BASE_URL),
        _api_key(api_key or os.environ.get(API_KEY_VARIABLE)),
        as_timeout(timeout) if timeout is not None else DEFAULT_TIMEOUT,
        max_retries,
        timeout_given=timeout is not None,
    )


def as_timeout(timeout: Timeout) -> httpx2.Timeout:
    """Seconds for an answer, or all four limits of httpx2 as they are.

    Raises:
        InvalidArgumentError: it is not above 0.
    """
    if isinstance(timeout, httpx2.Timeout):
        return timeout
    if not timeout > 0:
        raise InvalidArgumentError("`timeout` is a number of seconds above 0.")
    return httpx2.Timeout(timeout, connect=min(timeout, CONNECT_TIMEOUT_S))


def _base_url(text: str) -> str:
    try:
        url = httpx2.URL(text.strip())
    except httpx2.InvalidURL as error:
        raise InvalidArgumentError(f"The base URL {text!r} is malformed ({error}); {_EXAMPLE}") from error
    if url.scheme not in ("http", "https") or not url.host or url.query or url.fragment:
        raise InvalidArgumentError(f"The base URL {text!r} is not an http address; {_EXAMPLE}")
    return str(url).rstrip("/")


_EXAMPLE = f"give one such as {DEFAULT_BASE_URL}."


def _api_key(text: str | None) -> str | None:
    key = (text or "").strip()
    if not (key.isascii() and key.isprintable()):
        raise InvalidArgumentError("The API key holds characters that no key has; copy it again.")
    return key or None
