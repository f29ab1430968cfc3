"""One model as the store knows it: its name, what its folder holds, the version that answers and who uses that."""

import asyncio
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from spacte_client.types import Diagnosis, ImageParams, Precision, PredictParams
from spacte_workers.certification.certificates import ModelIdentity
from spacte_workers.endpoints.budget import check_budget
from spacte_workers.endpoints.remote import remote_of
from spacte_workers.errors import BadParameterError, check_consensus
from spacte_workers.images import BadImageError
from spacte_workers.load_steps import LoadStep
from spacte_workers.shards import Image

from .server_paths import without_paths

if TYPE_CHECKING:
    from spacte_core.checkpoint import CheckpointConfig

ModelState = Literal["loading", "ready", "unloaded", "failed"]


@dataclass(eq=False)
class ServedModel:
    """One version of one model, as the samplers hold it.

    Attributes:
        name, version: the folder's name, and SHA-256 over the checkpoint.
        config: what the checkpoint says about itself.
        precision, kernels: arithmetic of its votes, and what computes them, as the samplers have loaded it.
        reference: the plain float32 network, once the samplers have loaded that, too.
        loading_reference: held by whoever has them load it.
    """

    name: str
    version: str
    config: "CheckpointConfig"
    precision: Precision
    kernels: str
    reference: ModelIdentity | None = field(default=None, init=False)
    loading_reference: asyncio.Lock = field(default_factory=asyncio.Lock, init=False)
    _users: int = field(default=0, init=False)
    _idle: asyncio.Event = field(default_factory=asyncio.Event, init=False)

    @property
    def key(self) -> str:
        """What samplers call it."""
        return model_key(self.name, self.version)

    @property
    def reference_key(self) -> str:
        """What samplers call its plain float32 network."""
        return f"{self.key}/plain"

    @property
    def identity(self) -> ModelIdentity:
        """What an answer says about the model."""
        names, remote = tuple(self.config.class_names), remote_of(self.config.model.asked)
        return ModelIdentity(self.name, self.version, names, self.precision, self.kernels, remote)

    def check(self, params: ImageParams, image: Image) -> None:
        """See that the model takes this image and offers what is asked.

        Raises:
            BadImageError: the image does not have the model's input shape.
            BadParameterError: another sigma, more heads than there are, more noises than an endpoint's budget pays for,
                or grid noise for an image off the 8-bit grid.
        """
        expected, sigma = list(self.config.model.input_shape), self.config.sigma
        if list(image.shape) != expected:
            raise BadImageError(f"The image has shape {list(image.shape)}, but model {self.name} takes {expected}.")
        if params.sigma is not None and params.sigma != sigma:
            only = f"Model {self.name} is served at sigma {sigma:g} only"
            raise BadParameterError("sigma", f"{only}: ask for that, or leave it out.")
        if isinstance(params, PredictParams):
            check_consensus(params.k_consensus, self.config.model.heads, f"Model {self.name}")
            check_budget(params, self.config.model.asked)
        noise = params.noise if isinstance(params, PredictParams) else "grid"
        if noise == "grid" and image.dtype != "uint8":
            sentence = "Grid noise is for 8-bit images, and this one is between their steps: ask for float noise."
            raise BadParameterError("noise", sentence)

    @property
    def users(self) -> int:
        """Requests that run on this version."""
        return self._users

    @contextmanager
    def used(self) -> Generator["ServedModel"]:
        """Keep this version loaded while a request runs on it."""
        self._users += 1
        self._idle.clear()
        try:
            yield self
        finally:
            self._users -= 1
            if not self._users:
                self._idle.set()

    async def unused(self) -> None:
        """Wait until no request runs on this version."""
        if self._users:
            await self._idle.wait()


@dataclass
class ModelEntry:
    """What is known of one name: what its folder held when it was last read, and the version that answers, if any.

    `target` is the version that is being loaded, `step` how far that is, `since` when it was asked for, and
    `at_start` whether the service's start waits for it; `beside` is a second version, which answers a `share` of the
    requests.
    """

    folder: Path
    config: "CheckpointConfig | None" = None
    version: str | None = None
    state: ModelState = "unloaded"
    reason: str = ""
    target: str | None = None
    step: LoadStep | None = None
    since: float = 0.0
    at_start: bool = False
    served: ServedModel | None = None
    beside: ServedModel | None = None
    share: float = 0.0
    diagnosis: Diagnosis | None = None

    @property
    def told_reason(self) -> str:
        """The reason as callers read it."""
        return without_paths(self.reason, self.folder)

    def answers_by(self, version: str) -> bool:
        """Whether it is this version that answers for the name."""
        return self.served is not None and self.served.version == version

    def promote(self) -> ServedModel | None:
        """Have the version beside answer alone; returns the one that did before."""
        before, self.served, self.beside = self.served, self.beside, None
        return before

    def failed(self, reason: str) -> None:
        """Say why a version could not be loaded. If another one answers, it goes on answering."""
        self.state, self.reason = ("ready" if self.served else "failed"), reason
        self.loaded()

    def loaded(self) -> None:
        """Nothing is being loaded any more, whether or not that went well."""
        self.target, self.step, self.at_start = None, None, False


def model_key(name: str, version: str) -> str:
    """The key of a version: readable in logs, and different for every version."""
    return f"{name}@{version}"
