"""The one form of a model behind an endpoint.

What it answers costs money or time there, so that a load asks a few batches: to see that it is one function, and how
fast. Precisions and batch sizes are not tried.
"""

from dataclasses import replace
from typing import Any

from torch import Tensor

from spacte_core.forms import Classifier, Form, logits_of, plain
from spacte_core.votes import votes_of
from spacte_workers.endpoints.connecting import Connected

from .calibration import Calibration
from .errors import EngineError
from .kernel_names import BEFORE_ENDPOINT, ENDPOINT, PORTABLE
from .selection import NOT_ONE_FUNCTION, SelectedForm
from .self_checks import same_logits


def select_endpoint(
    classifier: Classifier, rows: Calibration, endpoint: Connected, asked: dict[str, Any]
) -> SelectedForm:
    """The form that asks the endpoint.

    Args:
        classifier: on its device.
        rows: calibration rows of the model.
        endpoint: connected.
        asked: the options of `select_form`.

    Raises:
        EngineError: another precision or form is asked for, or the endpoint is not one function.
        EndpointError, EndpointFaultError: it does not answer as it should.
    """
    alone = classifier.trunk is endpoint.network
    name = ENDPOINT if alone else BEFORE_ENDPOINT
    if asked["precision"] not in ("auto", "fp32") or asked["form_name"] not in (
        None,
        name,
        PORTABLE if alone else name,
    ):
        raise EngineError(
            "A model behind an endpoint is certified as it answers there: ask for no other precision, kernels or "
            "function."
        )
    config = endpoint.network.endpoint
    batch = asked["batch"] or config.rows * config.connections
    form = replace(plain(classifier, batch), name=name, recordable=False, any_batch=alone)
    endpoint.confirm()
    if not _is_one_function(form, rows.compared, config.rounding):
        raise EngineError(NOT_ONE_FUNCTION)
    small = replace(form, batch=config.rows) if alone and batch > config.rows else None
    return SelectedForm(form, small, 1.0)


def _is_one_function(form: Form, rows_NCHW: Tensor, rounding: float) -> bool:
    """Whether rows get the same votes again, and in another order the same logits but for roundings.

    Unlike here, equal batches may be rounded in another way there, where they are put together with others.
    """
    batch_BCHW = rows_NCHW[: form.batch]
    first_BK = logits_of(form, batch_BCHW)
    allowed = rounding * (first_BK - first_BK.mean(0)).abs().max().item()
    others = (logits_of(form, batch_BCHW), logits_of(form, batch_BCHW.flip(0)).flip(0))
    return all(
        same_logits(first_BK, other_BK, allowed) and bool((votes_of(first_BK) == votes_of(other_BK)).all())
        for other_BK in others
    )
