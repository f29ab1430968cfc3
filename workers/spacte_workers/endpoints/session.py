"""Asks an endpoint for rows: in batches of one size, within its limits, a failed request again as a whole.

A request that fails is repeated with the same rows, and whatever a failed attempt answered counts for nothing. So no
attempt can choose among votes. An answer that came and is wrong is not asked for again: it is a fault of the model.
"""

import os
import random
import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx2
import numpy as np
from numpy.typing import NDArray

from spacte_client.environment import blamed
from spacte_core.models.endpoint import EndpointConfig
from spacte_workers.errors import EndpointError, EndpointFaultError

from .pacing import Pace
from .protocols import JSON_LENGTH, Answer, checked, read_answer, refuse, request_of

_FIRST_DELAY_S, _LONGEST_DELAY_S = 0.5, 30.0
"""Between attempts: twice as long each time. Chosen: a server that is restarted is back within the attempts."""

_RETRIED = frozenset({408, 425, 429, 500, 502, 503, 504})
_MOST_ANSWER = 1 << 28  # bytes. Chosen: 8,192 rows of 1,000 classes as JSON are a third of it


class Session:
    """Connections to one endpoint; threads may share it.

    Args:
        config: the endpoint.
        num_classes: K.

    Raises:
        EndpointError: the environment variable of its token is not set, or one of a proxy or certificate is wrong.
    """

    def __init__(self, config: EndpointConfig, num_classes: int) -> None:
        self.config, self.num_classes = config, num_classes
        headers = _token(config)
        with blamed(EndpointError):
            self._client = httpx2.Client(timeout=config.timeout_s, headers=headers, follow_redirects=False)
        self._threads = ThreadPoolExecutor(config.connections, thread_name_prefix="endpoint")
        self._pace = Pace(config.url, config.requests_per_second)

    def close(self) -> None:
        """End the connections."""
        self._threads.shutdown(wait=False, cancel_futures=True)
        self._client.close()

    def logits(self, rows_NCHW: NDArray[np.float32]) -> NDArray[np.float32]:
        """Logits [N, K] of rows; a last request that is not full is filled up with its last row.

        Raises:
            EndpointError: no answer came.
            EndpointFaultError: a wrong one came, or one of another model.
        """
        size = self.config.rows
        parts = [rows_NCHW[start : start + size] for start in range(0, len(rows_NCHW), size)]
        asked = [self._threads.submit(self._part, part) for part in parts]
        try:
            return np.concatenate([one.result() for one in asked])
        finally:
            for one in asked:
                one.cancel()

    def metadata(self) -> dict[str, Any]:
        """What the Open Inference Protocol says of the model.

        Raises:
            EndpointError: no answer came.
            EndpointFaultError: it is no JSON object.
        """
        try:
            found = self._sent("GET", self.config.url).json()
        except ValueError:
            found = None
        if not isinstance(found, dict):
            refuse(self.config, "does not describe its model in JSON")
        return found

    def check_version(self, answer: Answer | None = None) -> None:
        """See that an answer, or else the metadata, names the model that was imported.

        Raises:
            EndpointFaultError: it does not.
        """
        config = self.config
        if answer is not None:
            stated = {"model": (config.model_name, answer.name), "version": (config.model_version, answer.version)}
            for what, (known, found) in stated.items():
                if known and found and known != found:
                    raise changed(config, f"its {what} is {found!r} now and was {known!r}")
        elif config.protocol == "v2" and config.model_version:
            versions = self.metadata().get("versions")
            if versions and config.model_version not in map(str, versions):
                told = ", ".join(map(str, versions))
                raise changed(config, f"its version is {told} now and was {config.model_version}")

    def answer(self, rows_RCHW: NDArray[np.float32]) -> Answer:
        """What one request answers, as it came."""
        laid = rows_RCHW if self.config.layout == "NCHW" else rows_RCHW.transpose(0, 2, 3, 1)
        url, body, headers = request_of(self.config, laid)
        response = self._sent("POST", url, content=body, headers=headers)
        return read_answer(self.config, response.content, response.headers.get(JSON_LENGTH))

    def _part(self, rows_NCHW: NDArray[np.float32]) -> NDArray[np.float32]:
        missing = self.config.rows - len(rows_NCHW)
        filled = np.concatenate([rows_NCHW, np.repeat(rows_NCHW[-1:], missing, 0)]) if missing else rows_NCHW
        answer = self.answer(filled)
        self.check_version(answer)
        return checked(self.config, answer.values, len(filled), self.num_classes)[: len(rows_NCHW)]

    def _sent(self, method: str, url: str, **request: Any) -> httpx2.Response:
        """The answer with status 200, of the first attempt or a later one."""
        attempt = 0
        while True:
            self._pace.wait()
            try:
                response = self._received(method, url, **request)
                if response.status_code == 200:
                    return response
                reason = f"answers with status {response.status_code}{_told(response)}"
                if response.status_code not in _RETRIED:
                    refuse(self.config, reason)
            except (httpx2.TransportError, UnicodeError) as error:  # the latter of a host's name
                response = None
                reason = f"cannot be reached ({type(error).__name__}{f': {error}' if str(error) else ''})"
            if attempt >= self.config.retries:
                raise EndpointError(
                    f"The endpoint {self.config.url} {reason}, {attempt + 1} times in a row, so nothing is certified: "
                    "see that it runs."
                )
            time.sleep(_delay(attempt, response))
            attempt += 1

    def _received(self, method: str, url: str, **request: Any) -> httpx2.Response:
        """One attempt, whose body is read as far as an answer can be long, and within the time of a request."""
        ends = time.monotonic() + self.config.timeout_s
        with self._client.stream(method, url, **request) as response:
            body = bytearray()
            for chunk in response.iter_bytes():
                body += chunk
                if len(body) > _MOST_ANSWER:
                    refuse(self.config, "answers with more bytes than the logits of its rows have")
                if time.monotonic() > ends:
                    raise httpx2.ReadTimeout(f"no whole answer within {self.config.timeout_s:g} s")
        return httpx2.Response(
            response.status_code,
            content=bytes(body),
            headers=_without_coding(response.headers),
            request=response.request,
        )


def changed(config: EndpointConfig, how: str) -> EndpointFaultError:
    """The error for another model than the imported one."""
    return EndpointFaultError(
        f"The model at {config.url} was changed, for {how}: nothing is certified; import it again."
    )


def _without_coding(headers: httpx2.Headers) -> dict[str, str]:
    """The headers of a body that has been decoded."""
    left_out = ("content-encoding", "content-length", "transfer-encoding")
    return {name: value for name, value in headers.items() if name.lower() not in left_out}


def _told(response: httpx2.Response) -> str:
    """The beginning of what an error says, in one line."""
    text = " ".join(response.text.split())[:200].rstrip(". ")
    return f" ({text})" if text else ""


def _delay(attempt: int, response: httpx2.Response | None) -> float:
    """Seconds before the next attempt: as the server says, else twice as long each time, less up to a quarter."""
    named = response.headers.get("retry-after", "") if response is not None else ""
    if named.isdecimal():
        return min(float(named), _LONGEST_DELAY_S)
    return min(_LONGEST_DELAY_S, _FIRST_DELAY_S * 2**attempt) * (1 - 0.25 * random.random())  # noqa: S311


def _token(config: EndpointConfig) -> dict[str, str]:
    """The header that lets requests in."""
    if config.token_variable is None:
        return {}
    token = os.environ.get(config.token_variable)
    if not token:
        raise EndpointError(
            f"The endpoint {config.url} wants a token: set the environment variable {config.token_variable} to it, "
            "where the samplers run."
        )
    return {config.token_header: f"Bearer {token}" if config.token_header.lower() == "authorization" else token}
