"""`POST /v1/predict` and `POST /v1/certify`: one question, one answer."""

import asyncio
from collections.abc import Coroutine, Iterable
from typing import Annotated, Any, TypeVar

from fastapi import APIRouter, Header, Request, Response

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
from spacte_service import image_requests as answering
from spacte_service.admission import Visit
from spacte_service.auth import Caller, TheCaller
from spacte_service.gateway import Gateway, TheGateway
from spacte_service.idempotency import check_key, fingerprint
from spacte_service.image_requests import Question
from spacte_service.openapi import either_body, problems
from spacte_service.problems import field_error

router = APIRouter(prefix="/v1", tags=["answers"])

PlaceKey = Annotated[
    str | None,
    Header(description="A key of your choice: who is told to come back is let in first then, with the same key."),
]
"""`Idempotency-Key` where answers are not kept."""

PROBLEMS = problems(400, 401, 404, 413, 415, 422, 429, 500, 503)


@router.post(
    "/certify", responses=problems(409, 504) | PROBLEMS, openapi_extra=either_body(CertifyParams, CertifyRequest)
)
async def certify(
    request: Request,
    response: Response,
    gateway: TheGateway,
    caller: TheCaller,
    idempotency_key: Annotated[
        str | None,
        Header(
            description="A key of your choice: the same request with the same key gets the same certificate, and "
            "who is told to come back is let in first then."
        ),
    ] = None,
) -> Certificate:
    """Certify an image: its label, and an L2 radius within which the smoothed classifier gives that label.

    Wrong with probability at most `alpha`. A certificate that abstains has label -1 and radius 0.
    """
    with gateway.work():
        visit = visit_of(gateway, caller, idempotency_key)
        if idempotency_key is None:  # an answer that is stored takes no place
            gateway.admission.refuse_early(visit)
        work = await gateway.bodies.certify(request)
        gateway.check_limits(work.params)
        question = Question(work.images[0], work.params, request.state.arrived)

        async def make() -> Certificate:
            return await gateway.presence.run(request, certify_one(gateway, question, visit))

        if idempotency_key is None:
            return await make()
        same = fingerprint(work.params.model_dump_json().encode(), work.images[0])
        certificate, replayed = await gateway.certificates.once(caller.id, idempotency_key, same, make)
        if replayed:
            response.headers["Idempotency-Replayed"] = "true"
        return certificate


async def certify_one(gateway: Gateway, question: Question[CertifyParams], visit: Visit) -> Certificate:
    """The certificate of one image, once there is a place for the request."""
    async with answering.place_for(gateway, question, visit) as place:
        image = await answering.decode(gateway, question)
        return await answering.certify(gateway, question, image, place)


@router.post(
    "/predict", responses=PROBLEMS, openapi_extra=either_body(PredictParams, PredictRequest, PredictBatchRequest)
)
async def predict(
    request: Request, gateway: TheGateway, caller: TheCaller, idempotency_key: PlaceKey = None
) -> Prediction | PredictionList:
    """Classify an image by the smoothed classifier, or several (`images`), each with noises of its own.

    Each label is wrong with probability at most `alpha`; -1 where the noises did not decide.
    """
    with gateway.work():
        visit = visit_of(gateway, caller, idempotency_key)
        gateway.admission.refuse_early(visit)
        work = await gateway.bodies.predict(request)
        gateway.check_limits(work.params)
        if len(work.images) > gateway.settings.most_images:
            sentence = f"Send at most {gateway.settings.most_images} images in one request."
            raise field_error("/images", sentence)
        if work.batch and work.params.seed is not None:
            raise field_error("/seed", "A seed belongs to one image; send the images one by one.")
        questions = [
            Question(data, work.params, request.state.arrived, pointer)
            for data, pointer in zip(work.images, work.pointers, strict=True)
        ]
        parts = (answering.predict(gateway, question, visit) for question in questions)
        answers = await gateway.presence.run(request, all_or_none(parts))
        return PredictionList(data=answers) if work.batch else answers[0]


def visit_of(gateway: Gateway, caller: Caller, key: str | None) -> Visit:
    """The request at the door.

    Raises:
        ProblemError: 400, the key cannot be one.
    """
    check_key(key)
    return gateway.admission.visit(caller.id, key)


T = TypeVar("T")


async def all_or_none(parts: Iterable[Coroutine[Any, Any, T]]) -> list[T]:
    """Run together; at the first error cancel the others and raise it."""
    try:
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(part) for part in parts]
    except ExceptionGroup as failed:
        raise failed.exceptions[0] from None
    return [task.result() for task in tasks]
