"""Promise: two versions share a model's requests as asked, each request by its id, and none is lost in a change."""

import asyncio
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest

from spacte_client.types import CertifyParams
from spacte_workers.errors import BadParameterError
from spacte_workers.serving.pools import LocalPool
from spacte_workers.serving.runtime import Runtime
from spacte_workers.shards import Image

IDS = [f"req_{i}" for i in range(2000)]


@pytest.fixture
async def two(tmp_path: Path, make_checkpoint: Callable[..., str]) -> AsyncIterator[tuple[Runtime, str, str, Path]]:
    """A runtime with two versions of `digits`, the second for a quarter of the requests; and both versions."""
    folder = tmp_path / "models"
    old = make_checkpoint(folder / "digits", seed=1)
    runtime = Runtime(folder, LocalPool(1), precision="fp32")
    await runtime.start()
    new = make_checkpoint(folder / "digits", seed=2)
    await runtime.load("digits", share=0.25)
    yield runtime, old, new, folder
    await runtime.stop()


def answering(runtime: Runtime) -> list[str]:
    """The version for each of `IDS`."""
    found: list[str] = []
    for request in IDS:
        with runtime.pinned("digits", request) as key:
            found.append(runtime.model(key).version)
    return found


async def certified_by(runtime: Runtime, request: str, n: int = 50) -> str:
    image = Image(bytes(64), (1, 8, 8), "uint8")
    with runtime.pinned("digits", request) as key:
        certificate = await runtime.certify(image, CertifyParams(model=key, n=n, n0=10), request_id=request)
    assert certificate.model == "digits"
    return certificate.model_version


async def test_a_version_that_is_named_answers_whatever_the_share(two: tuple[Runtime, str, str, Path]) -> None:
    runtime, old, new, _ = two
    for version in (old, new):
        for request in IDS[:20]:
            with runtime.pinned(f"digits@{version}", request) as key:
                assert runtime.model(key).version == version


async def test_each_version_gets_its_part_and_each_request_its_version(two: tuple[Runtime, str, str, Path]) -> None:
    runtime, old, new, _ = two
    before = answering(runtime)
    assert before == answering(runtime)
    assert 0.2 < before.count(new) / len(IDS) < 0.3
    assert before.count(old) + before.count(new) == len(IDS)
    (model,) = runtime.models()
    assert (model.state, model.version) == ("ready", old)
    assert [(share.version, share.weight) for share in model.traffic] == [(old, 0.75), (new, 0.25)]
    assert {await certified_by(runtime, request) for request in IDS[:30]} == {old, new}
    assert await certified_by(runtime, IDS[0]) == before[0]


async def test_a_share_that_grows_takes_no_request_back(two: tuple[Runtime, str, str, Path]) -> None:
    runtime, old, new, _ = two
    before = answering(runtime)
    await runtime.divide("digits", {old[:6]: 1, new[:8]: 1})
    after = answering(runtime)
    assert 0.45 < after.count(new) / len(IDS) < 0.55
    assert not [1 for a, b in zip(before, after, strict=True) if a == new != b]


async def test_the_version_that_is_not_named_goes_when_its_last_request_is_answered(
    two: tuple[Runtime, str, str, Path],
) -> None:
    runtime, old, new, _ = two
    waiting = IDS[answering(runtime).index(old)]
    with runtime.pinned("digits", waiting) as key:  # as a request that waits its turn
        dividing = asyncio.create_task(runtime.divide("digits", {new: 1}))
        await asyncio.sleep(0.05)
        assert runtime.models()[0].version == new
        assert not dividing.done()
        image = Image(bytes(64), (1, 8, 8), "uint8")
        answer = await runtime.certify(image, CertifyParams(model=key, n=50, n0=10), request_id=waiting)
        assert answer.model_version == old
    await asyncio.wait_for(dividing, 10)
    assert set(answering(runtime)) == {new}
    assert len(runtime.models()[0].traffic) == 1


async def test_back_to_the_old_version(two: tuple[Runtime, str, str, Path]) -> None:
    runtime, old, new, _ = two
    await runtime.divide("digits", {old: 1, new: 0})  # it stays loaded
    assert set(answering(runtime)) == {old}
    await runtime.divide("digits", {new: 1, old: 0})
    assert set(answering(runtime)) == {new}
    await runtime.divide("digits", {old: 1})
    assert set(answering(runtime)) == {old}
    with pytest.raises(BadParameterError, match="No version"):
        await runtime.divide("digits", {new: 1})


async def test_load_without_a_share_makes_the_folder_s_version_answer_alone(
    two: tuple[Runtime, str, str, Path], make_checkpoint: Callable[..., str]
) -> None:
    runtime, _, new, folder = two
    await runtime.load("digits")
    assert set(answering(runtime)) == {new}
    assert runtime.models()[0].version == new
    await runtime.load("digits", share=0.5)  # there is nothing to divide
    assert set(answering(runtime)) == {new}
    third = make_checkpoint(folder / "digits", seed=3)
    await runtime.load("digits", share=1.0)
    assert set(answering(runtime)) == {third}
    await runtime.unload("digits")
    assert runtime.models()[0].traffic == []


@pytest.mark.parametrize(
    ("weights", "words"),
    [
        ({}, "Name each version once"),
        ({"OLD": 0.0, "NEW": 0.0}, "not all of them 0"),
        ({"OLD": -1.0, "NEW": 2.0}, "from 0"),
        ({"OLD": float("inf"), "NEW": 1.0}, "from 0"),
        ({"abcdefgh": 1.0}, "No version 'abcdefgh' is loaded"),
        ({"": 1.0}, "by 6 digits or more"),
    ],
)
async def test_weights_that_are_none_change_nothing(
    two: tuple[Runtime, str, str, Path], weights: dict[str, float], words: str
) -> None:
    runtime, old, new, _ = two
    before = answering(runtime)
    named = {"OLD": old, "NEW": new}
    with pytest.raises(BadParameterError, match=words):
        await runtime.divide("digits", {named.get(name, name): weight for name, weight in weights.items()})
    assert answering(runtime) == before


async def test_an_old_version_that_new_samplers_cannot_load_again_is_withdrawn(
    two: tuple[Runtime, str, str, Path],
) -> None:
    runtime, old, new, folder = two
    # As a pool tells it whose samplers were all started anew: the folder holds the new version by now.
    runtime.pool.on_model_lost(f"digits@{old}", f"{folder}/digits/model.safetensors changed: load it again.")
    assert set(answering(runtime)) == {new}
    (model,) = runtime.models()
    assert (model.state, model.version) == ("ready", new)
    assert [(share.version, share.weight) for share in model.traffic] == [(new, 1.0)]
    assert model.reason == f"Version {old[:12]} could not be loaded again: model.safetensors changed: load it again."
    assert await certified_by(runtime, IDS[0]) == new
    runtime.pool.on_model_lost(f"digits@{old}", "again")  # of a version that is gone nothing changes
    assert runtime.models()[0].version == new
