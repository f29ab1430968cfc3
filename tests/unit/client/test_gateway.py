"""Both clients against the real application with real samplers, in this process."""

import io
from collections.abc import Callable
from typing import Any

import httpx2
import numpy as np
import pytest
from PIL import Image

import spacte_client as sdk
from spacte_client import AsyncClient, Client

from .conftest import AppTransport, RealGateway

DIGIT = (np.arange(64, dtype=np.uint8) * 4).reshape(1, 8, 8)


@pytest.fixture(params=["Client", "AsyncClient"])
def real(request: pytest.FixtureRequest, real_gateway: RealGateway) -> Callable[..., Any]:
    """`real(action)`: what `action(client)` gives against the real gateway."""
    if request.param == "Client":
        client = Client(transport=AppTransport(real_gateway.app, real_gateway.loop))
        return lambda action: action(client)

    async def run(action: Callable[[Any], Any]) -> Any:
        async with AsyncClient(transport=httpx2.ASGITransport(real_gateway.app)) as client:
            return await action(client)

    return lambda action: real_gateway.run(run(action)).result(120)


def png(pixels: np.ndarray) -> bytes:
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, format="PNG")
    return file.getvalue()


def test_a_certificate_is_whole_and_consistent(real: Callable[..., Any]) -> None:
    answer = real(lambda c: c.certify(DIGIT, n0=20, n=200, alpha=0.01))
    assert (answer.model, answer.sigma, answer.alpha, answer.noise) == ("digits", 0.25, 0.01, "grid")
    assert sum(answer.counts) == answer.n == 200
    assert sum(answer.selection_counts) == answer.n0 == 20
    assert answer.abstained == (answer.label == -1) == (answer.radius == 0)
    assert len(answer.seed) == 32


def test_the_same_pixels_in_any_form_are_the_same_image(real: Callable[..., Any]) -> None:
    forms = [DIGIT, png(DIGIT[0]), Image.fromarray(DIGIT[0]), io.BytesIO(png(DIGIT[0]))]
    answers = [real(lambda c, image=image: c.certify(image, n0=1, n=8)) for image in forms]
    assert len({answer.image_sha256 for answer in answers}) == 1
    assert len({answer.seed for answer in answers}) == len(forms)


def test_a_prediction(real: Callable[..., Any]) -> None:
    answer = real(lambda c: c.predict(DIGIT, n=100))
    assert sum(answer.counts) == answer.n == 100
    assert 0 <= answer.p_value <= 1


def test_models_info_and_health(real: Callable[..., Any]) -> None:
    (model,) = real(lambda c: c.models.list())
    assert (model.name, model.input_shape, model.state) == ("digits", [1, 8, 8], "ready")
    assert real(lambda c: c.models.get("digits")) == model
    info = real(lambda c: c.info())
    assert info.samplers >= 1
    assert info.limits
    assert real(lambda c: c.health()).status == "ok"


@pytest.mark.parametrize(
    ("image", "options", "kind"),
    [
        (b"not an image", {}, sdk.BadRequestError),
        (np.zeros((1, 9, 9), np.uint8), {}, sdk.BadRequestError),
        (DIGIT, {"model": "nothing"}, sdk.NotFoundError),
        (DIGIT, {"seed": "0" * 32}, sdk.UnprocessableEntityError),
        (DIGIT, {"sigma": 7.0}, sdk.UnprocessableEntityError),
    ],
)
def test_what_the_gateway_refuses_names_the_remedy_and_the_request(
    real: Callable[..., Any], image: Any, options: dict[str, Any], kind: type[sdk.APIStatusError]
) -> None:
    with pytest.raises(kind) as caught:
        real(lambda c: c.certify(image, **options))
    assert caught.value.message
    assert (caught.value.request_id or "").startswith("req_")


def test_many_images_are_answered_in_order(real_gateway: RealGateway) -> None:
    images = [np.full((1, 8, 8), value, np.uint8) for value in range(6)]
    with Client(transport=AppTransport(real_gateway.app, real_gateway.loop)) as client:
        alone = [client.certify(image, n0=1, n=8).image_sha256 for image in images]
        together = [answer.image_sha256 for answer in client.certify_many(images, concurrency=3, n0=1, n=8)]
    assert together == alone


def test_many_images_on_asyncio_likewise(real_gateway: RealGateway) -> None:
    images = [np.full((1, 8, 8), value, np.uint8) for value in range(6)]

    async def run() -> list[str]:
        async with AsyncClient(transport=httpx2.ASGITransport(real_gateway.app)) as client:
            return [a.image_sha256 async for a in client.certify_many(images, concurrency=3, n0=1, n=8)]

    assert len(set(real_gateway.run(run()).result(120))) == 6


def test_a_stream_shows_a_growing_proof_and_ends_with_the_certificate(live_gateway: str) -> None:
    with Client(live_gateway) as client, client.certify_stream(DIGIT, n=3000, n0=20) as stream:
        events = list(stream)
        certificate = stream.result()
    kinds = [event.event for event in events]
    assert kinds[0] == "started"
    assert kinds[-1] == "result"
    assert set(kinds[1:-1]) <= {"progress"}
    assert events[-1].certificate == certificate
    assert certificate.n <= 3000
    assert client.base_url == live_gateway


async def test_a_stream_on_asyncio_likewise_and_may_be_left_early(live_gateway: str) -> None:
    async with AsyncClient(live_gateway) as client:
        async with client.certify_stream(DIGIT, n=1000, n0=20) as stream:
            assert (await stream.result()).n <= 1000
        async with client.certify_stream(DIGIT, n=100_000) as stream:
            async for event in stream:
                assert event.event == "started"
                break
        assert (await client.health()).status == "ok"


def test_a_stream_that_is_refused_raises_the_problem(live_gateway: str) -> None:
    with Client(live_gateway) as client, pytest.raises(sdk.BadRequestError), client.certify_stream(b"not an image"):
        pass


def test_the_same_key_gives_the_same_certificate(real: Callable[..., Any]) -> None:
    answers = [real(lambda c: c.certify(DIGIT, n0=1, n=8, idempotency_key="only-once-k")) for _ in range(2)]
    assert answers[0] == answers[1]
