"""The runtime over threads of this process: answers, and what it refuses."""

import asyncio
import io
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import pytest_asyncio
from PIL import Image as Pillow

from spacte_client.types import PredictParams
from spacte_workers.errors import (
    BadParameterError,
    DeadlineExceededError,
    ModelNotFoundError,
    ModelNotReadyError,
    NoWorkersError,
)
from spacte_workers.images import BadImageError, from_array
from spacte_workers.serving.pools import LocalPool
from spacte_workers.serving.runtime import Runtime

from .conftest import SEED, an_image, ask, cut_weights, running

pytestmark = [pytest.mark.asyncio(loop_scope="module"), pytest.mark.slow]


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def runtime(
    tmp_path_factory: pytest.TempPathFactory, make_checkpoint: Callable[..., str]
) -> AsyncIterator[Runtime]:
    """One sampler, two models and a broken one; for tests that leave it as it is."""
    folder = tmp_path_factory.mktemp("models")
    make_checkpoint(folder / "digits")
    make_checkpoint(folder / "other", seed=1)
    make_checkpoint(folder / "broken", seed=2)
    cut_weights(folder / "broken")
    async with running(folder, allow_client_seed=True) as runtime:
        yield runtime


async def test_a_certificate_says_what_was_asked_and_who_answered(runtime: Runtime) -> None:
    certificate = await runtime.certify(an_image(), ask(bound="two_class"), request_id="req_1")
    model = next(model for model in runtime.models() if model.name == "digits")
    assert certificate.id == "req_1"
    assert (certificate.model, certificate.model_version) == ("digits", model.version)
    assert (certificate.n0, certificate.n, certificate.alpha, certificate.sigma) == (20, 300, 0.01, 0.25)
    assert (certificate.bound, certificate.noise, certificate.precision) == ("two_class", "grid", model.precision)
    assert sum(certificate.counts) == 300
    assert sum(certificate.selection_counts) == 20
    assert 0 < certificate.noise_error < 1e-10
    assert certificate.elapsed_ms > 0
    assert certificate.queue_ms >= 0


async def test_bytes_of_an_image_file_give_the_same_answer_as_its_pixels(runtime: Runtime) -> None:
    image = an_image()
    file = io.BytesIO()
    Pillow.fromarray(np.frombuffer(image.data, np.uint8).reshape(8, 8)).save(file, "PNG")
    from_bytes = await runtime.certify(file.getvalue(), ask(seed=SEED), request_id="req_1")
    from_pixels = await runtime.certify(image, ask(seed=SEED), request_id="req_2")
    assert from_bytes.counts == from_pixels.counts
    assert from_bytes.image_sha256 == from_pixels.image_sha256


async def test_counts_depend_on_seed_and_index_and_not_on_samplers(folder: Path) -> None:
    counts: list[list[int]] = []
    for samplers in (1, 2):
        async with running(folder, samplers, allow_client_seed=True) as runtime:
            answer = await runtime.certify(an_image(), ask(seed=SEED, n=600), request_id="req")
            other = await runtime.certify(an_image(), ask(seed=SEED, n=600), request_id="req", image_index=1)
            counts += [answer.counts, other.counts]
    assert counts[0] == counts[2]
    assert counts[1] == counts[3]
    assert counts[0] != counts[1]
    assert sum(count > 0 for count in counts[0]) >= 3


async def test_every_request_has_a_seed_of_its_own(runtime: Runtime) -> None:
    answers = [await runtime.certify(an_image(), ask(n=50), request_id="req") for _ in range(3)]
    assert len({answer.seed for answer in answers}) == 3
    assert all(len(answer.seed) == 32 for answer in answers)


async def test_a_prediction_draws_n_noises(runtime: Runtime) -> None:
    answer = await runtime.predict(an_image(), PredictParams(model="digits", n=200), request_id="req_p")
    assert answer.n == sum(answer.counts) == 200
    assert answer.abstained == (answer.label == -1)
    assert 0 <= answer.p_value <= 1


@pytest.mark.parametrize(
    ("options", "field", "remedy"),
    [({"sigma": 0.5}, "sigma", r"0\.25"), ({"k_consensus": 3}, "k_consensus", "at most 2")],
)
async def test_an_option_not_on_offer_is_named_with_the_remedy(
    runtime: Runtime, options: dict[str, Any], field: str, remedy: str
) -> None:
    for answer in (
        runtime.certify(an_image(), ask(**options), request_id="req"),
        runtime.predict(an_image(), PredictParams(model="digits", **options), request_id="req"),
    ):
        with pytest.raises(BadParameterError, match=remedy) as caught:
            await answer
        assert caught.value.field == field


async def test_an_image_between_the_grids_steps_needs_float_noise(runtime: Runtime) -> None:
    image = from_array(np.full((1, 8, 8), 0.3001), input_shape=(1, 8, 8))
    with pytest.raises(BadParameterError, match="float") as caught:
        await runtime.certify(image, ask(), request_id="req")
    assert caught.value.field == "noise"
    answer = await runtime.certify(image, ask(noise="float"), request_id="req")
    assert (answer.noise, answer.noise_error) == ("float", 0.0)


async def test_a_wrong_shape_is_a_bad_image(runtime: Runtime) -> None:
    image = from_array(np.zeros((3, 8, 8), np.uint8), input_shape=(3, 8, 8))
    with pytest.raises(BadImageError, match=r"\[1, 8, 8\]"):
        await runtime.certify(image, ask(), request_id="req")
    with pytest.raises(BadImageError):
        runtime.decode("digits", b"not an image")


async def test_models_are_found_by_name_and_broken_ones_do_not_stop_the_others(runtime: Runtime) -> None:
    states = {model.name: model.state for model in runtime.models()}
    assert states == {"broken": "failed", "digits": "ready", "other": "ready"}
    assert set(runtime.ready().values()) == {"ok"}
    with pytest.raises(ModelNotFoundError, match="name one of"):
        await runtime.certify(an_image(), ask(model=None), request_id="req")
    with pytest.raises(ModelNotFoundError, match="nothing"):
        await runtime.certify(an_image(), ask(model="nothing"), request_id="req")
    with pytest.raises(ModelNotReadyError, match="damaged") as caught:
        await runtime.certify(an_image(), ask(model="broken"), request_id="req")
    assert caught.value.state == "failed"
    answer = await runtime.certify(an_image(), ask(model="other"), request_id="req")
    assert answer.model == "other"


async def test_one_model_needs_no_name_and_the_seed_is_the_services(folder: Path) -> None:
    async with running(folder) as runtime:
        assert (await runtime.certify(an_image(), ask(model=None), request_id="req")).model == "digits"
        with pytest.raises(BadParameterError, match="leave it out") as caught:
            await runtime.certify(an_image(), ask(seed=SEED), request_id="req")
        assert caught.value.field == "seed"


async def test_a_deadline_answers_with_what_is_proven_or_says_that_nothing_is(runtime: Runtime) -> None:
    answer = await runtime.certify(an_image(), ask(n=10_000_000, deadline_ms=1500), request_id="req")
    assert answer.stop_reason == "deadline"
    assert answer.n == sum(answer.counts) < 10_000_000
    assert answer.elapsed_ms + answer.queue_ms < 5000
    with pytest.raises(DeadlineExceededError):
        await runtime.certify(an_image(), ask(n=10_000_000, n0=100_000, deadline_ms=1), request_id="req")


async def test_a_cancelled_request_frees_the_samplers(runtime: Runtime) -> None:
    endless = asyncio.create_task(runtime.certify(an_image(), ask(n=10_000_000), request_id="req"))
    await asyncio.sleep(0.3)
    endless.cancel()
    await asyncio.gather(endless, return_exceptions=True)
    answer = await asyncio.wait_for(runtime.certify(an_image(), ask(n=100), request_id="req"), 10)
    assert answer.n == 100


async def test_stopping_ends_requests_in_flight(folder: Path) -> None:
    runtime = Runtime(folder, LocalPool(1))
    await runtime.start()
    endless = asyncio.create_task(runtime.certify(an_image(), ask(n=10_000_000), request_id="req"))
    await asyncio.sleep(0.2)
    await runtime.stop()
    with pytest.raises(NoWorkersError):
        await endless
