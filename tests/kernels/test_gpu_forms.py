"""Promise: on a GPU a captured batch counts as the same operations launched one by one, and as a CPU does."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from spacte_workers.engine import Engine
from spacte_workers.engine.peak_rates import multiply_adds_per_second
from spacte_workers.engine.selection import candidate_precisions
from spacte_workers.images import from_array
from spacte_workers.noise.grid import GridNoise
from spacte_workers.noise.philox import row_names
from spacte_workers.noise.table import noise_table
from spacte_workers.shards import NoiseSource, Phase, Shard

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.slow,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no GPU here"),
]

SHAPE = (3, 32, 32)
SOURCE = NoiseSource("0123456789abcdef0123456789abcdef", 0, 0.25, "grid")


@pytest.fixture(scope="module")
def net():
    from spacte_workers.bench.networks import config_of, settled_network

    return settled_network(config_of("cifar_resnet20", 3), 0.25)


def engine_of(net, device, precision="fp32"):
    return Engine(net, input_shape=SHAPE, num_classes=10, precision=precision, device=device, batch=128)


def images():
    rng = np.random.default_rng(0)
    return [from_array(rng.integers(0, 256, SHAPE, dtype=np.uint8), input_shape=SHAPE) for _ in range(3)]


@pytest.mark.parametrize("noise", ["grid", "float"])
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_a_captured_batch_counts_as_a_launched_one(net, noise, precision):
    engine = engine_of(net, "cuda", precision)
    source = replace(SOURCE, noise=noise)
    units = [(image, Shard(source, Phase.ESTIMATION, 5, 305)) for image in images()]
    captured = [v.counts for v in engine.votes_many(units)]
    assert engine._graph is not None
    assert engine._graph(engine._noise_step(noise, source.sigma)) is not None, "nothing was captured"
    engine._graph = None
    assert [v.counts for v in engine.votes_many(units)] == captured


def test_the_gpu_votes_as_the_cpu(net):
    shard = Shard(SOURCE, Phase.ESTIMATION, 0, 1_000)
    there, here = (engine_of(net, device).votes(images()[0], shard).counts for device in ("cuda", "cpu"))
    assert sum(abs(a - b) for a, b in zip(there, here, strict=True)) <= 10


def test_the_noise_has_the_bits_of_the_cpu():
    rows = row_names(SOURCE, Phase.ESTIMATION, 0, 50)
    here = GridNoise(noise_table(0.25), 3072).draw(rows)
    there = GridNoise(noise_table(0.25), 3072, "cuda").draw_in_fixed_shapes(rows.cuda())
    assert torch.equal(there.cpu(), here)


def test_bfloat16_is_seen_to_be_faster():
    device = torch.device("cuda")
    assert candidate_precisions(device, allow_int8=True) == ["bf16", "fp32"]
    assert multiply_adds_per_second("bf16", device) > 2 * multiply_adds_per_second("fp32", device)
