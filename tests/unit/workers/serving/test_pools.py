"""The pool of threads: every registered sampler has every model, votes alike, and lets go cleanly."""

from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import torch

from spacte_workers.errors import ModelLoadError, NoWorkersError
from spacte_workers.images import from_array
from spacte_workers.serving.pools import LoadReport, LocalPool, ModelFiles, load_on_each
from spacte_workers.shards import NoiseSource, Phase, Sampler, SamplerLostError, SampleTask, Shard

SOURCE = NoiseSource("0" * 32, 0, 0.25, "grid")


class Register:
    """Stands where the coordinator stands: notes who is registered."""

    def __init__(self) -> None:
        self.samplers: dict[str, Sampler] = {}
        self.rates: list[float] = []

    def add_sampler(self, sampler: Sampler, rate: float, batch: int = 1) -> None:
        assert sampler.id not in self.samplers
        self.samplers[sampler.id] = sampler
        self.rates.append(rate)

    def remove_sampler(self, sampler_id: str) -> None:
        del self.samplers[sampler_id]


@pytest.fixture(autouse=True)
def _threads() -> Iterator[None]:
    """A pool of several samplers divides torch's threads; give them back."""
    threads = torch.get_num_threads()
    yield
    torch.set_num_threads(threads)


@pytest.fixture
def model(tmp_path: Path, make_checkpoint: Callable[..., str]) -> ModelFiles:
    version = make_checkpoint(tmp_path / "digits")
    return ModelFiles("digits@1", tmp_path / "digits", version)


def a_task(start: int, stop: int, seed: int = 0) -> SampleTask:
    pixels = np.random.default_rng(seed).integers(0, 256, (1, 8, 8), dtype=np.uint8)
    image = from_array(pixels, input_shape=(1, 8, 8))
    return SampleTask(image, Shard(SOURCE, Phase.ESTIMATION, start, stop))


async def test_samplers_register_once_the_first_model_is_loaded(model: ModelFiles) -> None:
    pool, register = LocalPool(2), Register()
    await pool.start(register)
    assert not register.samplers
    assert pool.status().starting == 2
    report = await pool.load(model)
    assert report.rate > 0
    assert len(register.samplers) == pool.status().ready == 2
    assert all(rate > 0 for rate in register.rates)
    await pool.unload(model.key)
    assert not register.samplers
    await pool.stop()


@pytest.mark.slow
async def test_every_sampler_gives_the_same_votes_however_shards_are_cut(model: ModelFiles) -> None:
    pool, register = LocalPool(2), Register()
    await pool.start(register)
    await pool.load(model)
    one, two = register.samplers.values()
    whole = (await one.sample_many(model.key, [a_task(0, 300)]))[0]
    parts = await two.sample_many(model.key, [a_task(130, 300), a_task(0, 130)])
    assert np.add(parts[0].counts, parts[1].counts).tolist() == list(whole.counts)
    assert sum(whole.counts) == 300
    assert sum(count > 0 for count in whole.counts) >= 3
    other = (await two.sample_many(model.key, [a_task(0, 300, seed=1)]))[0]
    assert other.counts != whole.counts
    await pool.stop()


async def test_a_closed_sampler_or_a_missing_model_loses_the_shard(model: ModelFiles) -> None:
    pool, register = LocalPool(1), Register()
    await pool.start(register)
    await pool.load(model)
    sampler = next(iter(register.samplers.values()))
    with pytest.raises(SamplerLostError):
        await sampler.sample_many("another@1", [a_task(0, 10)])
    await pool.stop()
    assert not register.samplers
    with pytest.raises(SamplerLostError):
        await sampler.sample_many(model.key, [a_task(0, 10)])


async def test_a_broken_checkpoint_is_refused_with_its_reason(model: ModelFiles) -> None:
    pool, register = LocalPool(1), Register()
    await pool.start(register)
    weights = model.folder / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:100])
    with pytest.raises(ModelLoadError, match="damaged"):
        await pool.load(model)
    assert not register.samplers
    await pool.stop()


async def test_a_checkpoint_that_changed_meanwhile_is_refused(
    model: ModelFiles, make_checkpoint: Callable[..., str]
) -> None:
    pool = LocalPool(1)
    await pool.start(Register())
    make_checkpoint(model.folder, seed=9)
    with pytest.raises(ModelLoadError, match="changed"):
        await pool.load(model)
    await pool.stop()


async def test_a_pool_that_is_not_started_has_no_workers(model: ModelFiles) -> None:
    with pytest.raises(NoWorkersError):
        await LocalPool(1).load(model)


async def test_all_samplers_load_as_the_first_one_chose_or_none_keeps_the_model(model: ModelFiles) -> None:
    asked: list[tuple[str, int | None, str | None]] = []
    kept: set[str] = set()

    def sampler(name: str, works: bool) -> tuple[Callable[..., object], Callable[[str], None]]:
        async def load(files: ModelFiles) -> LoadReport:
            asked.append((files.precision, files.batch, files.kernels))
            if not works:
                raise ModelLoadError("out of memory")
            kept.add(name)
            return LoadReport("bf16", "cpu", 1.0, 64, "amx")

        return load, lambda key: kept.discard(name)

    await load_on_each(model, [sampler("a", True), sampler("b", True)])
    assert asked == [("auto", None, None), ("bf16", 64, "amx")]
    assert kept == {"a", "b"}
    kept.clear()
    with pytest.raises(ModelLoadError, match="out of memory"):
        await load_on_each(model, [sampler("a", True), sampler("b", False)])
    assert kept == set()
