"""On a real Ray: the same votes whoever draws them and whatever dies, and no sampler that is not there."""

import asyncio
import os
import signal
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from spacte_client.types import CertifyParams
from spacte_workers.cluster import RayPool
from spacte_workers.images import from_array
from spacte_workers.serving.pools import ModelFiles
from spacte_workers.serving.runtime import Runtime
from spacte_workers.shards import Image, NoiseSource, Phase, Sampler, SampleTask, Shard

pytestmark = [pytest.mark.ray, pytest.mark.slow, pytest.mark.timeout(600)]

SEED = "00112233445566778899aabbccddeeff"


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory, make_checkpoint: Callable[..., str]) -> Path:
    folder = tmp_path_factory.mktemp("models")
    make_checkpoint(folder / "digits")
    return folder


@pytest.fixture(autouse=True)
def _ray(local_ray: None) -> Iterator[None]:
    handler = signal.getsignal(signal.SIGTERM)
    yield
    assert signal.getsignal(signal.SIGTERM) is handler


@asynccontextmanager
async def running(models: Path, samplers: int, **options: Any) -> AsyncIterator[tuple[Runtime, RayPool]]:
    """A runtime whose samplers are all up."""
    pool = RayPool(max_samplers=samplers, threads=1, **options)
    runtime = Runtime(models, pool, precision="fp32", allow_client_seed=True, start_wait_s=300)
    await runtime.start()
    try:
        await until(lambda: pool.status().ready == samplers, 200)
        yield runtime, pool
    finally:
        await runtime.stop()


async def until(true: Callable[[], bool], seconds: float) -> float:
    """Wait until something holds, and return how long that took."""
    started = time.monotonic()
    async with asyncio.timeout(seconds):
        while not true():  # noqa: ASYNC110
            await asyncio.sleep(0.02)
    return time.monotonic() - started


def an_image(shape: tuple[int, int, int] = (1, 8, 8)) -> Image:
    pixels = np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)
    return from_array(pixels, input_shape=shape)


def ask(**options: Any) -> CertifyParams:
    return CertifyParams(**{"n0": 100, "n": 20_000, "seed": SEED, **options})


def pids(pool: RayPool) -> list[int]:
    """Processes of the samplers."""
    return [each.pid for each in pool.supervisors if each.pid is not None]


async def test_counts_are_the_same_with_one_two_and_four_samplers(models: Path) -> None:
    counts = set[tuple[int, ...]]()
    for samplers in (1, 2, 4):
        async with running(models, samplers) as (runtime, pool):
            answer = await runtime.certify(an_image(), ask(), request_id="req")
            assert len(set(pids(pool))) == samplers
        counts.add((*answer.selection_counts, *answer.counts))
        assert sum(answer.counts) == 20_000
    assert len(counts) == 1


async def test_the_samplers_of_a_job_leave_the_processor_to_those_of_the_gateway(models: Path) -> None:
    async with running(models, 1, yields=True, share=0.4) as (runtime, pool):
        await runtime.certify(an_image(), ask(), request_id="req")
        busy = busy_threads(pids(pool)[0])
        assert busy
        assert {os.getpriority(os.PRIO_PROCESS, thread) for thread in busy} == {19}


def busy_threads(pid: int) -> list[int]:
    """The threads of a process that have had more than 50 ms of processor time."""
    found: list[int] = []
    for thread in Path(f"/proc/{pid}/task").iterdir():
        fields = (thread / "stat").read_text().rpartition(")")[2].split()
        if int(fields[11]) + int(fields[12]) > 5:  # hundredths of a second, in user and system mode
            found.append(int(thread.name))
    return found


@pytest.mark.long
async def test_a_sampler_killed_in_mid_request_changes_no_count(models: Path) -> None:
    async with running(models, 2) as (runtime, pool):
        undisturbed = await runtime.certify(an_image(), ask(n=60_000), request_id="req")
        disturbed = asyncio.create_task(runtime.certify(an_image(), ask(n=60_000), request_id="req"))
        await asyncio.sleep(0.3)
        killed = pids(pool)[0]
        os.kill(killed, signal.SIGKILL)
        answer = await asyncio.wait_for(disturbed, 200)
        assert answer.counts == undisturbed.counts
        assert answer.selection_counts == undisturbed.selection_counts
        await until(lambda: pool.status().ready == 2 and killed not in pids(pool), 200)
        again = await runtime.certify(an_image(), ask(n=60_000), request_id="req")
        assert again.counts == undisturbed.counts


@pytest.mark.long
async def test_ready_turns_false_when_the_last_sampler_dies_and_true_when_it_is_back(models: Path) -> None:
    async with running(models, 1) as (runtime, pool):
        assert set(runtime.ready().values()) == {"ok"}
        os.kill(pids(pool)[0], signal.SIGKILL)
        took = await until(lambda: runtime.ready()["samplers"] != "ok", 10)
        assert took < 10
        waiting = asyncio.create_task(runtime.certify(an_image(), ask(n=100), request_id="req"))
        await until(lambda: set(runtime.ready().values()) == {"ok"}, 200)
        answer = await asyncio.wait_for(waiting, 60)  # it came while there was no sampler, and was not lost
        assert answer.n == 100


@pytest.mark.long
async def test_a_sampler_that_hangs_is_not_counted_as_ready(models: Path) -> None:
    async with running(models, 1) as (runtime, pool):
        pid = pids(pool)[0]
        os.kill(pid, signal.SIGSTOP)
        try:
            await until(lambda: runtime.ready()["samplers"] != "ok", 10)
        finally:
            os.kill(pid, signal.SIGCONT)
        await until(lambda: runtime.ready()["samplers"] == "ok", 100)
        assert pids(pool) == [pid]  # it came back by itself, with its model loaded
        await runtime.certify(an_image(), ask(n=100), request_id="req")


async def test_a_model_is_replaced_while_it_serves(tmp_path: Path, make_checkpoint: Callable[..., str]) -> None:
    old = make_checkpoint(tmp_path / "digits")
    async with running(tmp_path, 2) as (runtime, _):
        running_on_old = asyncio.create_task(runtime.certify(an_image(), ask(n=100_000), request_id="req_old"))
        await asyncio.sleep(0.1)
        new = make_checkpoint(tmp_path / "digits", seed=5)
        await asyncio.wait_for(runtime.load("digits"), 200)
        assert (await running_on_old).model_version == old
        assert (await runtime.certify(an_image(), ask(n=100), request_id="req")).model_version == new


@pytest.mark.cluster  # restarts within fixed times, which a busy machine does not keep
async def test_a_restarted_sampler_gets_every_model_before_it_is_used(
    tmp_path: Path, make_checkpoint: Callable[..., str]
) -> None:
    make_checkpoint(tmp_path / "one", seed=1)
    make_checkpoint(tmp_path / "two", seed=2)
    async with running(tmp_path, 1) as (runtime, pool):
        before = [
            await runtime.certify(an_image(), ask(model=name, n=500), request_id="req") for name in ("one", "two")
        ]
        os.kill(pids(pool)[0], signal.SIGKILL)
        after = [
            await asyncio.wait_for(runtime.certify(an_image(), ask(model=name, n=500), request_id="req"), 200)
            for name in ("one", "two")
        ]
    assert [answer.counts for answer in before] == [answer.counts for answer in after]
    assert before[0].counts != before[1].counts


async def test_a_cancelled_request_frees_the_samplers_within_a_job(models: Path) -> None:
    async with running(models, 1) as (runtime, _):
        endless = asyncio.create_task(runtime.certify(an_image(), ask(n=10_000_000), request_id="req"))
        await asyncio.sleep(0.5)
        endless.cancel()
        await asyncio.gather(endless, return_exceptions=True)
        await asyncio.wait_for(runtime.certify(an_image(), ask(n=100), request_id="req"), 5)


async def test_sixteen_and_sixty_four_shards_give_the_same_counts(
    make_checkpoint: Callable[..., str], tmp_path: Path
) -> None:
    class Register:
        def __init__(self) -> None:
            self.samplers: dict[str, Sampler] = {}

        def add_sampler(self, sampler: Sampler, rate: float, batch: int = 1) -> None:
            self.samplers[sampler.id] = sampler

        def remove_sampler(self, sampler_id: str) -> None:
            self.samplers.pop(sampler_id, None)

    version = make_checkpoint(tmp_path / "digits")
    register, pool = Register(), RayPool(max_samplers=2, threads=1)
    source = NoiseSource(SEED, 0, 0.25, "grid")
    await pool.start(register)
    try:
        await pool.load(ModelFiles("digits@1", tmp_path / "digits", version, "fp32"))
        await until(lambda: len(register.samplers) == 2, 200)
        totals: list[list[int]] = []
        for pieces in (16, 64):
            size = 6400 // pieces
            calls = [
                list(register.samplers.values())[i % 2].sample_many(
                    "digits@1", [SampleTask(an_image(), Shard(source, Phase.ESTIMATION, i * size, (i + 1) * size))]
                )
                for i in range(pieces)
            ]
            votes = [call[0].counts for call in await asyncio.gather(*calls)]
            totals.append(np.sum(votes, axis=0).tolist())
    finally:
        await pool.stop()
    assert totals[0] == totals[1]
    assert sum(totals[0]) == 6400
