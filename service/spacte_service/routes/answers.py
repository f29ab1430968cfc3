"""`POST /v1/predict` and `POST /v1/certify`: one request, one answer."""

import asyncio
from collections.abc import Coroutine, Iterable, Sequence
from typing import Annotated, Any, TypeVar

from fastapi import APIRouter, Depends, Header, Request, Response

from spacte_client.types import (
    Certificate,
    CertifyParams,
    CertifyRequest,
    PredictBatchRequest,
    Prediction,
    PredictionList,
    PredictParams,
    PredictRequest,
)
from spacte_service.admission import Arrival
from spacte_service.auth import TheCaller
from spacte_service.dependencies import (
    IdempotencyKey,
    InFlight,
    TheAdmission,
    TheBodies,
    TheCertificates,
    TheImageRequests,
    TheQuotas,
    TheTasks,
)
from spacte_service.idempotency import fingerprint
from spacte_service.image_requests import ImageRequest
from spacte_workers.votes import most_votes, votes_of

from .descriptions import either_body, problems

router = APIRouter(prefix="/v1", tags=["answers"])

PROBLEMS = problems(400, 401, 404, 413, 415, 422, 429, 500, 503)


@router.post(
    "/certify", responses=problems(409, 504) | PROBLEMS, openapi_extra=either_body(CertifyParams, CertifyRequest)
)
async def certify(
    request: Request,
    response: Response,
    caller: TheCaller,
    _: InFlight,
    admission: TheAdmission,
    bodies: TheBodies,
    images: TheImageRequests,
    tasks: TheTasks,
    quotas: TheQuotas,
    certificates: TheCertificates,
    idempotency_key: Annotated[
        IdempotencyKey,
        Header(
            description="A key of your choice: the same request with the same key gets the same certificate, and "
            "who is told to come back is let in first then."
        ),
    ] = None,
) -> Certificate:
    """Certify an image: its label, and an L2 radius within which the smoothed classifier gives that label.

    Wrong with probability at most `alpha`. A certificate that abstains has label -1 and radius 0.
    """
    arrival = admission.arrival(caller.id, idempotency_key)
    if idempotency_key is None:  # an answer that is stored needs no permit
        admission.refuse_early(arrival)
    body = await bodies.certify(request, caller)
    image_request = ImageRequest(body.images[0], body.params, arrival, request.state.arrived)

    async def make() -> Certificate:
        with quotas.noises(caller.id, caller.quotas, most_votes(body.params)) as noises:
            certificate = await tasks.run(request, images.certify(image_request))
            noises.drawn = votes_of(certificate)
            return certificate

    if idempotency_key is None:
        return await make()
    same = fingerprint(body.params.model_dump_json().encode(), body.images[0])
    certificate, replayed = await certificates.once(caller.id, idempotency_key, same, make)
    if replayed:
        response.headers["Idempotency-Replayed"] = "true"
    return certificate


async def arrive(
    caller: TheCaller,
    _: InFlight,
    admission: TheAdmission,
    idempotency_key: Annotated[
        IdempotencyKey,
        Header(description="A key of your choice: who is told to come back is let in first then, with the same key."),
    ] = None,
) -> Arrival:
    """A request whose answer is not kept under its key; refused before its body is read, if there is no permit."""
    arrival = admission.arrival(caller.id, idempotency_key)
    admission.refuse_early(arrival)
    return arrival


@router.post(
    "/predict", responses=PROBLEMS, openapi_extra=either_body(PredictParams, PredictRequest, PredictBatchRequest)
)
async def predict(
    request: Request,
    arrival: Annotated[Arrival, Depends(arrive)],
    bodies: TheBodies,
    images: TheImageRequests,
    caller: TheCaller,
    tasks: TheTasks,
    quotas: TheQuotas,
) -> Prediction | PredictionList:
    """Classify an image by the smoothed classifier, or several (`images`), each with noises of its own.

    Each label is wrong with probability at most `alpha`; -1 where the noises did not decide.
    """
    body = await bodies.predict(request, caller)
    parts = (
        images.predict(ImageRequest(image, body.params, arrival, request.state.arrived, pointer, together))
        for image, pointer, together in zip(body.images, body.pointers, first_for_all(body.images), strict=True)
    )
    with quotas.noises(caller.id, caller.quotas, len(body.images) * most_votes(body.params)) as noises:
        answers = await tasks.run(request, all_or_none(parts))
        noises.drawn = sum(answer.n for answer in answers)
    return PredictionList(data=answers) if body.is_list else answers[0]


T = TypeVar("T")


def first_for_all(images: Sequence[object]) -> list[int]:
    """What the `images` of each `ImageRequest` of one HTTP request are."""
    return [len(images)] + [0] * (len(images) - 1)


async def all_or_none(parts: Iterable[Coroutine[Any, Any, T]]) -> list[T]:
    """Run together; at the first error cancel the others and raise it."""
    try:
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(part) for part in parts]
    except ExceptionGroup as failed:
        raise failed.exceptions[0] from None
    return [task.result() for task in tasks]
