"""The blocking client.

from spacte_client import Client

with Client() as client:
    certificate = client.certify("digit.png", n=10_000)
    print(certificate.label, certificate.radius)
"""

from collections.abc import Iterable, Iterator
from typing import Self, Unpack

import httpx2

from . import _calls as calls
from ._connection import Connection
from ._constants import CONCURRENCY, MAX_RETRIES
from ._images import Image
from ._map_in_order import map_in_order
from ._options import BracketOptions, CertifyOptions, PredictOptions, SetOptions
from ._resources import Files, Jobs, Models
from ._settings import Timeout, resolve_settings
from ._streams import CertifyStream
from .types import Bracket, Certificate, Health, Info, Prediction, PredictionSet, SetMethod, SigningKey


class Client:
    """A connection to a gateway. Safe to share between threads; close it, or use it in a `with` block.

    Args:
        base_url: the gateway's address. Default: the environment's `SPACTE_BASE_URL`, then
            `http://127.0.0.1:8000`.
        api_key: sent as a bearer token. Default: the environment's `SPACTE_API_KEY`, then none.
        timeout: seconds for each attempt's answer, or an `httpx2.Timeout`. Default: 600, or a minute beyond a
            `deadline_ms` where that is more; and 5 to connect.
        max_retries: further attempts where the connection fails or the gateway answers 408, 429, 500, 502,
            503 or 504; each after 0.5 s to 8 s, or when the gateway's `Retry-After` says. Certifying and
            predicting are not tried again where no answer came in time, by our clock or a proxy's (504): that
            would draw other noises from the start, and drawing until it is decided in time would use up alpha.
        transport: an `httpx2` transport in place of the network, for tests and special needs.

    Raises:
        InvalidArgumentError: an argument cannot be used.

    Attributes:
        models: the models of the service.
        files: uploaded files.
        jobs: batch jobs.

    Every method raises an `APIError` where the gateway does not answer as asked, and, before anything is
    sent, an `InvalidArgumentError` where an argument is wrong.
    """

    def __init__(
        self,
        base_url: str | None = None,
        api_key: str | None = None,
        *,
        timeout: Timeout | None = None,
        max_retries: int = MAX_RETRIES,
        transport: httpx2.BaseTransport | None = None,
    ) -> None:
        self._connection = Connection(resolve_settings(base_url, api_key, timeout, max_retries), transport)
        self.models = Models(self._connection)
        self.files = Files(self._connection)
        self.jobs = Jobs(self._connection)

    @property
    def base_url(self) -> str:
        """The gateway's address."""
        return self._connection.settings.base_url

    def certify(
        self,
        image: Image,
        *,
        timeout: Timeout | None = None,
        idempotency_key: str | None = None,
        **options: Unpack[CertifyOptions],
    ) -> Certificate:
        """A label, and an L2 radius within which the smoothed classifier keeps it, with confidence 1 - alpha.

        Args:
            image: a path, bytes of an image file, an open binary file, a Pillow image, an array (uint8, or
                float in [0, 1], [channels, height, width]), or an uploaded file.
            timeout: for this call, in place of the client's.
            idempotency_key: the same key within 24 hours gives the same answer; made where none is given.
            options: `model`, `n0`, `n`, `alpha`, ...; see `CertifyOptions`.
        """
        return self._connection.send(calls.certify(image, options, key=idempotency_key, timeout=timeout))

    def predict(self, image: Image, *, timeout: Timeout | None = None, **options: Unpack[PredictOptions]) -> Prediction:
        """What the smoothed classifier answers, or an abstention, wrong with probability at most alpha.

        Arguments are as for `certify`, but the options are those of `PredictOptions`.
        """
        return self._connection.send(calls.predict(image, options, timeout=timeout))

    def predict_set(
        self,
        image: Image,
        *,
        alpha: float = 0.1,
        radius: float,
        method: SetMethod = "rcp1",
        timeout: Timeout | None = None,
        **options: Unpack[SetOptions],
    ) -> PredictionSet:
        """Classes that hold the true one with probability at least 1 - alpha, however the image was moved by `radius`.

        Args:
            image, timeout: as for `certify`.
            alpha: probability that the set misses the true class, over images and noise.
            radius: L2, in units of [0, 1] pixels.
            method: `rcp1` draws one noise; `bincp` many, and gives smaller sets.
            options: see `SetOptions`.
        """
        asked = {"alpha": alpha, "radius": radius, "method": method, **options}
        return self._connection.send(calls.predict_set(image, asked, timeout=timeout))

    def bracket(self, image: Image, *, timeout: Timeout | None = None, **options: Unpack[BracketOptions]) -> Bracket:
        """The certified radius, and the distance of an image with another answer, if an attack finds one.

        Arguments are as for `certify`, and those of `BracketOptions`.
        """
        return self._connection.send(calls.bracket(image, options, timeout=timeout))

    def certify_stream(
        self, image: Image, *, timeout: Timeout | None = None, **options: Unpack[CertifyOptions]
    ) -> CertifyStream:
        """A certificate while it is being proven; use it in a `with` block. Arguments are as for `certify`."""
        return CertifyStream(self._connection, calls.certify_stream(image, options, timeout=timeout))

    def certify_many(
        self,
        images: Iterable[Image],
        *,
        concurrency: int = CONCURRENCY,
        timeout: Timeout | None = None,
        **options: Unpack[CertifyOptions],
    ) -> Iterator[Certificate]:
        """Certificates of many images, in order, as they are ready.

        Images are taken as they are needed, `concurrency` at a time; other arguments are as for `certify`. The first
        failure is raised in its turn; a job (`client.jobs`) goes on after one.
        """
        calls.check_many(options, concurrency)
        return map_in_order(lambda image: self.certify(image, timeout=timeout, **options), images, concurrency)

    def signing_keys(self) -> list[SigningKey]:
        """The public keys of the service's signatures, the one that signs now last."""
        return self._connection.send(calls.signing_keys())

    def info(self) -> Info:
        """The service's version and every limit that a request is held to."""
        return self._connection.send(calls.info())

    def health(self) -> Health:
        """Whether requests are being served, and if not, what is missing."""
        return self._connection.send(calls.health())

    def close(self) -> None:
        """Close the connections."""
        self._connection.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"{type(self).__name__}(base_url={self.base_url!r})"
