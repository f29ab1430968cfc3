"""Where the gateway is and how to speak to it: arguments, then the environment, then the defaults."""

import os
import platform
from dataclasses import dataclass, field

import httpx2

from . import _constants as constants
from ._exceptions import InvalidArgumentError
from ._version import __version__

Timeout = float | httpx2.Timeout


@dataclass(frozen=True, slots=True)
class Settings:
    """What both clients are made with. The API key is left out of its `repr`; no `timeout` means the default."""

    base_url: str
    api_key: str | None = field(repr=False)
    timeout: httpx2.Timeout | None
    max_retries: int

    def attempt_timeout(self, timeout: httpx2.Timeout | None, deadline_s: float | None) -> httpx2.Timeout:
        """The limits of one attempt: the call's, else the client's, else the default, beyond the call's deadline."""
        seconds = max(constants.ANSWER_TIMEOUT_S, (deadline_s or 0.0) + constants.DEADLINE_MARGIN_S)
        return timeout or self.timeout or as_timeout(seconds)

    def headers(self) -> dict[str, str]:
        """What goes with every request."""
        headers = {
            "Accept": "application/json, application/problem+json",
            "User-Agent": f"spacte-client/{__version__} python/{platform.python_version()}",
        }
        if self.api_key:
            headers["Authorization"] = f"Bearer {self.api_key}"
        return headers


def resolve_settings(base_url: str | None, api_key: str | None, timeout: Timeout | None, max_retries: int) -> Settings:
    """Settings from a client's arguments and the environment; an `InvalidArgumentError` says what would do instead."""
    if max_retries < 0:
        raise InvalidArgumentError("`max_retries` is a number of further attempts; pass 0 for none.")
    return Settings(
        _base_url(base_url or os.environ.get(constants.BASE_URL_VARIABLE) or constants.DEFAULT_BASE_URL),
        _api_key(api_key or os.environ.get(constants.API_KEY_VARIABLE) or ""),
        None if timeout is None else as_timeout(timeout),
        max_retries,
    )


def as_timeout(timeout: Timeout) -> httpx2.Timeout:
    """Seconds for an answer, above 0, or all four limits of httpx2 as they are."""
    if isinstance(timeout, httpx2.Timeout):
        return timeout
    if not timeout > 0:
        raise InvalidArgumentError("`timeout` is a number of seconds above 0.")
    return httpx2.Timeout(timeout, connect=min(timeout, constants.CONNECT_TIMEOUT_S))


def _base_url(text: str) -> str:
    example = f"give one such as {constants.DEFAULT_BASE_URL}."
    try:
        url = httpx2.URL(text.strip())
    except httpx2.InvalidURL as error:
        raise InvalidArgumentError(f"The base URL {text!r} is malformed ({error}); {example}") from error
    try:
        url.raw_host.decode("ascii").encode("idna")  # as the system's resolver is asked
    except UnicodeError as error:
        raise InvalidArgumentError(f"The base URL {text!r} names no host ({error}); {example}") from error
    if url.scheme not in ("http", "https") or not url.host or url.query or url.fragment:
        raise InvalidArgumentError(f"The base URL {text!r} is not an http address; {example}")
    return str(url).rstrip("/")


def _api_key(text: str) -> str | None:
    key = text.strip()
    if not (key.isascii() and key.isprintable()):
        raise InvalidArgumentError("The API key holds characters that no key has; copy it again.")
    return key or None
