"""What the noises of an answer may cost where a model is asked behind an endpoint."""

from typing import TYPE_CHECKING

from spacte_client.types import CertifyParams, PredictParams
from spacte_workers.certification.redraw import REDRAWN
from spacte_workers.errors import BadParameterError
from spacte_workers.votes import most_votes

if TYPE_CHECKING:
    from spacte_core.models.endpoint import EndpointConfig


def noises_of(params: PredictParams) -> int:
    """The most noises that a request draws, those that are drawn twice counted twice."""
    return most_votes(params) + (min(params.n0, REDRAWN) if isinstance(params, CertifyParams) else 0)


def check_budget(params: PredictParams, endpoint: "EndpointConfig | None") -> None:
    """See that all noises of an answer may be paid for.

    Rows that fill up requests, fixed rows and failed attempts come on top.

    Raises:
        BadParameterError: they cost more than the budget; the sentence says for how many it is enough.
    """
    if endpoint is None or endpoint.budget_per_certificate is None or not endpoint.price_per_1000_rows:
        return
    affordable = int(1000 * endpoint.budget_per_certificate / endpoint.price_per_1000_rows)
    noises = noises_of(params)
    if noises > affordable:
        most = affordable - (noises - params.n)
        enough = f"ask for an `n` of at most {most}" if most > 0 else "ask the operator for a larger one"
        raise BadParameterError(
            "n",
            f"{noises} noises cost {noises * endpoint.price_per_1000_rows / 1000:g} at this model's endpoint, and its "
            f"budget for an answer is {endpoint.budget_per_certificate:g}: {enough}.",
        )
