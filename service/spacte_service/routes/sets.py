"""`POST /v1/sets` and `POST /v1/brackets`: what else the same noises prove about one image."""

from typing import Annotated

from fastapi import APIRouter, Depends, Request

from spacte_client.types import Bracket, BracketParams, BracketRequest, PredictionSet, SetParams, SetRequest
from spacte_service.admission import Arrival
from spacte_service.auth import TheCaller
from spacte_service.dependencies import TheBodies, TheImageRequests, TheQuotas, TheTasks
from spacte_service.image_requests import ImageRequest
from spacte_workers.votes import most_votes, votes_of

from .answers import PROBLEMS, arrive
from .descriptions import either_body, problems

router = APIRouter(prefix="/v1", tags=["answers"])

TheArrival = Annotated[Arrival, Depends(arrive)]


@router.post(
    "/sets",
    operation_id="predict_set",
    responses=problems(409) | PROBLEMS,
    openapi_extra=either_body(SetParams, SetRequest),
)
async def predict_set(
    request: Request,
    arrival: TheArrival,
    caller: TheCaller,
    bodies: TheBodies,
    images: TheImageRequests,
    tasks: TheTasks,
    quotas: TheQuotas,
) -> PredictionSet:
    """Name the classes that hold the true one with probability at least 1 - alpha, within `radius`.

    The level is marginal: over images like those of the calibration, and noise. The model needs a calibration
    (`spacte calibrate`).
    """
    body = await bodies.of_one_image(request, caller, SetParams, SetRequest)
    with quotas.noises(caller.id, caller.quotas, 1) as noises:
        asked = ImageRequest(body.images[0], body.params, arrival, request.state.arrived)
        answer = await tasks.run(request, images.predict_set(asked))
        noises.drawn = answer.samples
    return answer


@router.post(
    "/brackets",
    operation_id="bracket",
    responses=problems(504) | PROBLEMS,
    openapi_extra=either_body(BracketParams, BracketRequest),
)
async def bracket(
    request: Request,
    arrival: TheArrival,
    caller: TheCaller,
    bodies: TheBodies,
    images: TheImageRequests,
    tasks: TheTasks,
    quotas: TheQuotas,
) -> Bracket:
    """Bracket the radius of an image: a certificate from below, and from above an image that is answered otherwise.

    Where the attack finds no such image, `upper` is null: nothing is said then.
    """
    body = await bodies.of_one_image(request, caller, BracketParams, BracketRequest)
    params = body.params
    with quotas.noises(caller.id, caller.quotas, most_votes(params)) as noises:
        about = ImageRequest(body.images[0], params, arrival, request.state.arrived)
        answer = await tasks.run(request, images.bracket(about))
        noises.drawn = votes_of(answer.certificate) + answer.attack_noises
    return answer
