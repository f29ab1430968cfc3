"""A model behind a URL as a base classifier: what a checkpoint says of it, and what it answered when it was imported.

Who asks it over the network is `spacte_workers.endpoints`; nothing here does.
"""

from collections.abc import Callable
from typing import Literal, Self
from urllib.parse import urlsplit

import numpy as np
import torch
from pydantic import BaseModel, ConfigDict, Field, model_validator
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor

from .archived import ArchivedNetwork
from .program_archive import ProgramError

LEAST_PROBES = 8
"""Fixed rows by which a changed model is noticed. Chosen: more than any two models agree on to the last bit; a request
that takes more rows is filled with them."""

_SEED = 20_261_101  # of the probes. Chosen: any would do


class EndpointConfig(BaseModel):
    """Where the model is, how it is asked, and within which limits. There is no secret in it."""

    model_config = ConfigDict(frozen=True, extra="forbid", protected_namespaces=())
    url: str = Field(description="`http(s)://HOST/v2/models/NAME`, or of the JSON form the whole address.")
    protocol: Literal["v2", "json"] = Field(
        default="v2", description="Open Inference Protocol, or the small JSON form."
    )
    input: str = Field(default="", description="Name of the input tensor, float32.")
    output: str = Field(default="", description="Name of the output that decides.")
    kind: Literal["logits", "label"] = Field(
        default="logits", description="What that output holds: scores [rows, classes], or the number of a class [rows]."
    )
    layout: Literal["NCHW", "NHWC"] = Field(default="NCHW", description="Order of the input's dimensions.")
    binary: bool = Field(default=True, description="Whether tensors travel as bytes, an extension of the protocol.")
    model_name: str = Field(default="", description="What it calls itself; empty where it says nothing.")
    model_version: str = Field(default="", description="The version that it states; empty where it states none.")
    rows: int = Field(default=32, ge=1, le=8192, description="Rows of every request.")
    connections: int = Field(default=4, ge=1, le=64, description="Requests that are under way at a time.")
    requests_per_second: float | None = Field(
        default=None, gt=0, description="The most requests a second, of all processes of this user on this machine."
    )
    price_per_1000_rows: float | None = Field(default=None, ge=0, description="In any currency.")
    budget_per_certificate: float | None = Field(default=None, gt=0, description="The most that its noises may cost.")
    timeout_s: float = Field(default=30.0, gt=0, le=3600, description="Seconds for one request.")
    retries: int = Field(default=4, ge=0, le=20, description="Further attempts at a request that failed.")
    token_variable: str | None = Field(
        default=None,
        pattern=r"^SPACTE_ENDPOINT_[A-Z0-9_]+$",
        description="The environment variable that holds the token; no checkpoint can have another one sent.",
    )
    token_header: str = Field(default="Authorization", description="Which header takes it; this one as a bearer token.")
    rounding: float = Field(
        default=0.0, ge=0, le=2**-6, description="What an answer may vary by, as part of what rows differ by."
    )

    @model_validator(mode="after")
    def _plain_address(self) -> Self:
        parts = urlsplit(self.url)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise ValueError("url is the http or https address of a model")
        if parts.username is not None or parts.password is not None or parts.query or parts.fragment:
            raise ValueError(
                "url holds no credentials, query or fragment: name the environment variable of a token with "
                "token_variable"
            )
        if self.budget_per_certificate is not None and self.price_per_1000_rows is None:
            raise ValueError("a budget_per_certificate needs the price_per_1000_rows")
        return self

    @property
    def probes(self) -> int:
        """How many rows are asked now and then whose answers are known."""
        return -(-LEAST_PROBES // self.rows) * self.rows


class EndpointNetwork(ArchivedNetwork):
    """The backbone of such a classifier: pixels -> logits, once it is connected.

    Its archive, which a checkpoint keeps in place of weights, is what it answered to the probes at import. So the
    checkpoint's version is one of the function as far as anybody outside can tell.

    Attributes:
        endpoint: where it is.
        expected_PK: its answers to the probes, float32.
    """

    def __init__(self, endpoint: EndpointConfig) -> None:
        super().__init__()
        self.endpoint = endpoint
        self.expected_PK = torch.empty(0, 0)
        self._call: Callable[[Tensor], Tensor] = _unconnected

    def connect(self, ask: Callable[[Tensor], Tensor]) -> None:
        """Have `ask`, rows_NCHW -> logits_NK, compute; a copy has to be connected anew."""
        self._call = ask

    def logits(self, x_BCHW: Tensor) -> list[Tensor]:
        """What the endpoint answers, on the device of the images."""
        return [self._call(x_BCHW).to(x_BCHW.device)]

    def load_archive(self, archive: bytes) -> None:
        """Take in the answers to the probes.

        Raises:
            ProgramError: that is not what the bytes hold.
        """
        try:
            self.expected_PK = load(archive)["probes"]
        except (SafetensorError, KeyError) as error:
            raise ProgramError("it holds no answers to probes") from error
        self.archive = archive

    def prepare(self) -> None:
        """Nothing has to be made."""

    def __setstate__(self, state: dict[str, object]) -> None:
        super().__setstate__(state)
        self._call = _unconnected


def answers_archive(expected_PK: Tensor) -> bytes:
    """What `load_archive` takes."""
    return save({"probes": expected_PK.float().contiguous()})


def probe_rows(count: int, input_shape: tuple[int, int, int]) -> Tensor:
    """Rows in units of [0, 1] that look like noisy images, float32 [count, C, H, W], the same on every machine."""
    channels, height, width = input_shape
    generator = np.random.default_rng(_SEED)
    coarse = generator.integers(0, 256, (count, channels, min(4, height), min(4, width)))
    rows, columns = np.arange(height) * 4 // max(height, 4), np.arange(width) * 4 // max(width, 4)
    noisy = coarse[:, :, rows][..., columns] + generator.integers(-96, 97, (count, channels, height, width))
    return torch.from_numpy(noisy.astype(np.float32) / np.float32(255))


def _unconnected(_x_BCHW: Tensor) -> Tensor:
    raise RuntimeError("This model is behind an endpoint, which is asked when it is certified or served, not here.")
