"""What the tests of the runtime share: models, a runtime over threads of this process, and what it is asked."""

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from spacte_client.types import CertifyParams
from spacte_workers.images import from_array
from spacte_workers.serving.pools import LocalPool
from spacte_workers.serving.runtime import Runtime
from spacte_workers.shards import Image

SEED = "00112233445566778899aabbccddeeff"


@asynccontextmanager
async def running(folder: Path, samplers: int = 1, **options: Any) -> AsyncIterator[Runtime]:
    """A runtime with these models, in float32 unless another precision is asked for."""
    runtime = Runtime(folder, LocalPool(samplers), **{"precision": "fp32", **options})
    await runtime.start()
    try:
        yield runtime
    finally:
        await runtime.stop()


def an_image(seed: int = 0) -> Image:
    pixels = np.random.default_rng(seed).integers(0, 256, (1, 8, 8), dtype=np.uint8)
    return from_array(pixels, input_shape=(1, 8, 8))


def ask(**options: Any) -> CertifyParams:
    """What a certificate of few votes asks for."""
    return CertifyParams(**{"model": "digits", "n0": 20, "n": 300, "alpha": 0.01, **options})


def cut_weights(model: Path) -> None:
    """Leave of its weights what an interrupted copy leaves."""
    weights = model / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:64])


@pytest.fixture
def folder(tmp_path: Path, make_checkpoint: Callable[..., str]) -> Path:
    """Models: one, of the digits."""
    make_checkpoint(tmp_path / "digits")
    return tmp_path
