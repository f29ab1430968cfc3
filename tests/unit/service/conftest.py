"""Fixtures of the service's tests: a backend whose answers a test controls, and clients of the app."""

import asyncio
import base64
import io
import time
from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from contextlib import AsyncExitStack, contextmanager
from datetime import UTC, datetime
from typing import Any

import httpx2
import numpy as np
import pytest
from fastapi import FastAPI
from PIL import Image as Pillow

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
    StopReason,
)
from spacte_core.preprocessing import Asked
from spacte_service import Settings, create_app
from spacte_workers.certification.algorithm import Outcome, Progress
from spacte_workers.errors import ModelNotFoundError, NotCalibratedError, NoWorkersError
from spacte_workers.images import decode_image, image_sha256
from spacte_workers.serving.pools import PoolStatus
from spacte_workers.shards import Image

DIGITS = Model(
    name="digits",
    version="0" * 64,
    arch="digits_cnn",
    heads=5,
    method="spacte-gaussian",
    sigmas=[0.25],
    num_classes=10,
    class_names=[str(i) for i in range(10)],
    input_shape=[1, 8, 8],
    normalization="standard",
    state="ready",
)


class ScriptedBackend:
    """A backend in the place of the workers, whose timing a test decides.

    Attributes:
        gate: requests wait here before they answer; open at first.
        running: requests that are being answered now.
        most: the most that ever were.
        cancelled: requests whose caller went away.
        noises_a_second: what it says of its samplers' speed; 0 says nothing.
        order: seeds or ids of requests in the order in which they began.
    """

    def __init__(self) -> None:
        self.gate = asyncio.Event()
        self.gate.set()
        self.running = 0
        self.most = 0
        self.cancelled = 0
        self.begun: list[str] = []
        self.samplers = 1
        self.noises_a_second = 0.0
        self.looks = 3
        self.look_s = 0.0
        self.fault: Exception | None = None
        self.loads: list[str] = []
        self.params: list[PredictParams] = []

    @property
    def pool(self) -> None:
        """It has no samplers of its own."""

    async def start(self) -> None:
        pass

    async def stop(self) -> None:
        pass

    @contextmanager
    def pinned(self, name: str | None, request_id: str) -> Iterator[str | None]:
        yield name and name.partition("@")[0]

    async def divide(self, name: str, weights: Mapping[str, float]) -> None:
        self.weights = dict(weights)

    async def load(self, name: str, share: float | None = None, source: str | None = None) -> None:
        if name != "digits":
            raise ModelNotFoundError(f"There is no model called {name!r}: choose one of those served (digits).")
        await self.gate.wait()
        self.loads.append(name)

    async def unload(self, name: str) -> None:
        if name != "digits":
            raise ModelNotFoundError(f"There is no model called {name!r}: choose one of those served (digits).")
        self.loads.append(f"-{name}")

    def models(self) -> list[Model]:
        return [DIGITS]

    def samples(self, name: str) -> list[Sample]:
        if name != "digits":
            raise ModelNotFoundError(f"There is no model called {name!r}: choose one of those served (digits).")
        return [Sample(name="00003-7", label=7, label_name="7", data=base64.b64encode(make_png()).decode())]

    def ready(self) -> dict[str, str]:
        return {"samplers": "ok" if self.samplers else "No sampler is alive (0 starting, 1 lost)."}

    def pool_status(self) -> PoolStatus:
        return PoolStatus(self.samplers, 0, 0, "cpu")

    def rate(self, name: str | None) -> tuple[str, float]:
        return "digits", self.noises_a_second

    def decode(self, model: str | None, data: bytes, asked: Asked | None = None) -> Image:
        if model not in (None, "digits"):
            raise ModelNotFoundError(f"There is no model called {model!r}: choose one of those served (digits).")
        return decode_image(data, input_shape=(1, 8, 8), asked=asked)

    async def certify(
        self,
        image: Image,
        params: CertifyParams,
        *,
        request_id: str,
        on_progress: Callable[[Progress, Certificate | None], None] | None = None,
    ) -> Certificate:
        def certificate(n: int, stop_reason: StopReason) -> Certificate:
            counts = [0] * 10
            counts[7] = n
            return Certificate(
                id=request_id,
                model="digits",
                model_version=DIGITS.version,
                image_sha256=image_sha256(image),
                label=7,
                label_name="7",
                abstained=False,
                radius=0.5,
                p_lower=0.9,
                sigma=0.25,
                alpha=params.alpha,
                n0=params.n0,
                n=n,
                n_max=params.n,
                counts=counts,
                selection_counts=counts,
                bound="clopper_pearson" if params.bound == "auto" else params.bound,
                bound_requested=params.bound,
                noise=params.noise,
                precision="fp32",
                k_consensus=None,
                deadline_ms=params.deadline_ms,
                stop_reason=stop_reason,
                looks=1,
                seed=params.seed or "0" * 32,
                versions={},
                created_at=datetime.now(UTC),
                elapsed_ms=1.0,
                queue_ms=0.0,
            )

        await self._work(params, request_id)
        if on_progress:
            on_progress(Progress(5, params.n, 7, 0.0, 0.0, 0, None), None)
            for look in range(1, self.looks + 1):
                standing = Outcome(7, False, look / 10, 0.6, 100, look * 10, (0,), (0,), "cancelled", look)
                now = Progress(look * 10, params.n, 7, 0.6, look / 10, look, standing)
                on_progress(now, certificate(look * 10, "cancelled"))
                await asyncio.sleep(self.look_s)
        return certificate(params.n, "n_max")

    async def predict_set(self, image: Image, params: SetParams, *, request_id: str) -> PredictionSet:
        raise NotCalibratedError("Model digits has no calibration: run `spacte calibrate` first.")

    async def logits(self, rows: Sequence[Image], model: str | None) -> tuple[str, np.ndarray]:
        values_BP = np.stack([np.frombuffer(row.data, np.float32) for row in rows])
        return DIGITS.version, values_BP[:, :10] * np.float32(2)

    async def bracket(self, image: Image, params: BracketParams, *, request_id: str) -> Bracket:
        lower = await self.certify(image, params, request_id=request_id)
        found = {"upper": None, "adversarial": None, "alpha_lower": lower.alpha, "alpha_upper": params.alpha_upper}
        return Bracket(id=request_id, lower=lower.radius, certificate=lower, elapsed_ms=1.0, **found)

    async def predict(self, image: Image, params: PredictParams, *, request_id: str) -> Prediction:
        await self._work(params, request_id)
        counts = [0] * 10
        counts[image.data[0] % 10] = params.n
        return Prediction(
            id=request_id,
            model="digits",
            model_version=DIGITS.version,
            label=image.data[0] % 10,
            label_name="7",
            abstained=False,
            p_value=0.0,
            counts=counts,
            n=params.n,
            alpha=params.alpha,
            sigma=0.25,
            noise=params.noise,
            precision="fp32",
            seed=params.seed or "0" * 32,
            elapsed_ms=1.0,
        )

    async def _work(self, params: PredictParams, request_id: str) -> None:
        self.params.append(params)
        if self.fault:
            raise self.fault
        if not self.samplers:
            raise NoWorkersError("No sampler is alive: try again in a moment.")
        self.begun.append(request_id)
        self.running += 1
        self.most = max(self.most, self.running)
        try:
            await self.gate.wait()
        except asyncio.CancelledError:
            self.cancelled += 1
            raise
        finally:
            self.running -= 1


def make_png(value: int = 7, shape: tuple[int, ...] = (8, 8)) -> bytes:
    """A PNG whose pixels all have this value."""
    file = io.BytesIO()
    Pillow.fromarray(np.full(shape, value, np.uint8)).save(file, "PNG")
    return file.getvalue()


@pytest.fixture
def png() -> Callable[..., bytes]:
    """Makes a PNG whose pixels all have one value."""
    return make_png


@pytest.fixture
def digit() -> bytes:
    """A PNG that the model takes."""
    return make_png()


@pytest.fixture
def backend() -> ScriptedBackend:
    """Stands in for the workers."""
    return ScriptedBackend()


@pytest.fixture(scope="session")
def make_backend() -> type[ScriptedBackend]:
    """Makes backends for longer-lived fixtures."""
    return ScriptedBackend


@pytest.fixture
def settings() -> Settings:
    """The defaults, whatever the environment says."""
    return Settings()


@pytest.fixture
def app(settings: Settings, backend: ScriptedBackend) -> FastAPI:
    """The real application over the scripted backend."""
    return create_app(settings, backend)


@pytest.fixture
async def http(app: FastAPI) -> AsyncIterator[httpx2.AsyncClient]:
    """A client of the application, without a network."""
    transport = httpx2.ASGITransport(app=app)
    async with httpx2.AsyncClient(transport=transport, base_url="http://testserver") as client:
        yield client


@pytest.fixture
async def make_http(backend: ScriptedBackend) -> AsyncIterator[Callable[[Settings], httpx2.AsyncClient]]:
    """Clients of applications with other settings."""
    async with AsyncExitStack() as stack:
        clients: list[httpx2.AsyncClient] = []

        def make(settings: Settings) -> httpx2.AsyncClient:
            transport = httpx2.ASGITransport(app=create_app(settings, backend))
            clients.append(httpx2.AsyncClient(transport=transport, base_url="http://testserver"))
            stack.push_async_callback(clients[-1].aclose)
            return clients[-1]

        yield make


async def wait_until(condition: Callable[[], Any], seconds: float = 60.0) -> None:
    """Wait until something holds."""
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "waited too long"
        await asyncio.sleep(0.005)


@pytest.fixture
def until() -> Callable[..., Any]:
    """Waits until something holds, for a minute at most."""
    return wait_until
