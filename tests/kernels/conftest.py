"""What tests of several kernels share: two threads, and a network that kernels speed up."""

import pytest
from tests.small_engine import convolutions, on_threads


@pytest.fixture
def two_threads():
    yield from on_threads(2)


@pytest.fixture
def network():
    return convolutions()
