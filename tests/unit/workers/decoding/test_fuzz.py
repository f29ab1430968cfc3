"""Promise: whatever is sent to be decoded is taken or refused with a sentence; no process dies, and none grows."""

from typing import Any

import pytest
from benchmarks.fuzz import GROWTH_BYTES, run


def check(found: dict[str, Any], inputs: int) -> None:
    assert found["inputs"] == inputs
    assert found["processes_lost"] == 0
    assert found["taken"].keys() == {"BMP", "JPEG", "PNG", "PPM", "WEBP", "npy", "npz", "parquet", "zip"}
    assert found["refused"].keys() == found["taken"].keys() | {"GIF", "TIFF"}


@pytest.mark.slow
def test_damaged_files() -> None:
    check(run(2_000, seed=20), 2_000)


@pytest.mark.long
def test_many_damaged_files() -> None:
    found = run(50_000, seed=21)
    check(found, 50_000)
    assert found["memory_at_the_end"] - found["memory_after_a_fifth"] < GROWTH_BYTES
