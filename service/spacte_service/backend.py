"""What the gateway needs of the workers: `spacte_workers.serving.runtime.Runtime`, on Ray or in this process."""

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, Protocol

from spacte_client.types import (
    Bracket,
    BracketParams,
    Certificate,
    CertifyParams,
    Model,
    Prediction,
    PredictionSet,
    PredictParams,
    Sample,
    SetParams,
)

if TYPE_CHECKING:  # scipy and numpy come with them, which the application's import can do without
    import numpy as np
    from numpy.typing import NDArray

    from spacte_core.preprocessing import Asked
    from spacte_workers.certification.algorithm import Progress
    from spacte_workers.serving.pools import Pool, PoolStatus
    from spacte_workers.shards import Image

OnProgress = Callable[["Progress", Certificate | None], None]
"""Told on the event loop how far a certificate is, and the one that stands if drawing ends now."""


class Backend(Protocol):
    """Models and samplers, as seen from the routes.

    Errors are those of `spacte_workers.errors`, and `BadImageError`.
    """

    @property
    def pool(self) -> "Pool":
        """Where the noises are drawn."""
        ...

    async def start(self) -> None:
        """Load the models and start the samplers; returns once requests can be answered."""

    async def stop(self) -> None:
        """Let go of samplers and models."""

    async def load(self, name: str, share: float | None = None, source: str | None = None) -> None:
        """Load a model, or replace it by what its folder holds now, without dropping a request.

        With a `share` the version that answers stays, and the new one answers that part of the requests. A `source`
        is fetched first.
        """

    async def divide(self, name: str, weights: Mapping[str, float]) -> None:
        """Divide a model's requests by weight among its loaded versions; one that is not named is unloaded."""

    def pinned(self, name: str | None, request_id: str) -> AbstractContextManager[str | None]:
        """What to call the model in all that one request asks, so that one version answers it."""
        ...

    async def unload(self, name: str) -> None:
        """Stop serving a model, once what it works on is answered."""

    def models(self) -> list[Model]:
        """Every model known, loaded or not."""
        ...

    def samples(self, name: str) -> list[Sample]:
        """Held-out images that came with a model; reads files."""
        ...

    def ready(self) -> dict[str, str]:
        """Checks by name, each `ok` or a sentence on what is wrong."""
        ...

    def pool_status(self) -> "PoolStatus":
        """How many samplers are in which state, and what they run on."""
        ...

    def rate(self, name: str | None) -> tuple[str, float]:
        """The model that answers for a name, and the noises a second that the samplers draw for it alone, or 0."""
        ...

    def decode(self, model: str | None, data: bytes, asked: "Asked | None" = None) -> "Image":
        """Pixels in the model's input shape, from the bytes of an image file, changed only as asked or trained."""
        ...

    async def certify(
        self, image: "Image", params: CertifyParams, *, request_id: str, on_progress: OnProgress | None = None
    ) -> Certificate:
        """One certificate; cancelling the task frees the samplers."""
        ...

    async def predict(self, image: "Image", params: PredictParams, *, request_id: str) -> Prediction:
        """One prediction."""
        ...

    async def predict_set(self, image: "Image", params: SetParams, *, request_id: str) -> PredictionSet:
        """One prediction set."""
        ...

    async def logits(self, rows: "Sequence[Image]", model: str | None) -> "tuple[str, NDArray[np.float32]]":
        """The version that answers, and the base classifier's own logits [B, K] of float32 rows, without noise."""
        ...

    async def bracket(self, image: "Image", params: BracketParams, *, request_id: str) -> Bracket:
        """One certified radius, and what an attack finds beyond it."""
        ...
