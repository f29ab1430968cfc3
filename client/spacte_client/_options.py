"""The options of certify and predict as keyword arguments, checked before anything is sent."""

import difflib
from collections.abc import Mapping
from typing import Any, Literal, TypedDict, TypeVar

from pydantic import BaseModel, ValidationError

from ._exceptions import InvalidArgumentError
from .types import Bound, Conversion, Noise

M = TypeVar("M", bound=BaseModel)


class PredictOptions(TypedDict, total=False):
    """Keyword arguments of `predict`. What is left out is the gateway's default."""

    model: str | None
    """The model's name; optional where one model is loaded."""
    n: int
    """The most noises to draw."""
    alpha: float
    """Probability of a wrong answer that is tolerated, in (0, 1)."""
    sigma: float | None
    """Noise level in units of [0, 1] pixels; one that the model is served at."""
    noise: Noise
    """`grid`: exact integer noise for 8-bit images. `float`: as published."""
    k_consensus: int | None
    """If the first k heads agree, their class is the vote and the rest are not run."""
    resize: bool
    """Scale the image and crop its centre to the model's input, as in its training."""
    enlarge: bool
    """With `resize`: also where that enlarges the image, so that a radius overstates that of the file."""
    convert: list[Conversion]
    """What may be changed besides: `channels`, `orientation`, `depth`, `transparency`."""
    seed: str | None
    """128-bit seed, 32 hex digits; only where the operator allows it."""


class CertifyOptions(PredictOptions, total=False):
    """Keyword arguments of `certify`. What is left out is the gateway's default."""

    n0: int
    """Noises drawn to choose the class."""
    bound: Bound
    """`two_class` also bounds the runner-up class and certifies more."""
    target_radius: float | None
    """Stop as soon as this L2 radius is shown, or shown to be out of reach."""
    tolerance: float | None
    """Stop when drawing on to `n` can add less than this to the radius."""
    deadline_ms: int | None
    """Answer by then with the radius that is proven so far."""
    certify: Literal["fp32"] | None
    """`fp32`: certify the plain float32 network, whatever casts the votes; goes with a fixed `n`."""


class SetOptions(TypedDict, total=False):
    """Keyword arguments of `predict_set` besides `alpha` and `radius`."""

    model: str | None
    """The model's name; optional where one model is loaded."""
    sigma: float | None
    """Noise level in units of [0, 1] pixels; one that the model is served at."""
    resize: bool
    """Resize the image to the model's input shape."""
    seed: str | None
    """128-bit seed, 32 hex digits; only where the operator allows it."""


class BracketOptions(CertifyOptions, total=False):
    """Keyword arguments of `bracket`. What is left out is the gateway's default."""

    alpha_upper: float
    """Probability that the upper bound is false, in (0, 1)."""
    n_upper: int
    """The most noises to draw for each test of an attack."""


class JobOptions(CertifyOptions, total=False):
    """Keyword arguments of `jobs.create`. What is left out is the gateway's default."""

    stop_incorrect: bool
    """Draw no estimation noises where another class than the true one is chosen; such an image counts as 0."""
    n_upper: int | None
    """Attack each certificate for an upper bound of the radius, with at most so many noises for each test."""
    alpha_upper: float
    """Probability that an upper bound is false, in (0, 1)."""


def validated(model: type[M], options: Mapping[str, Any], what: str) -> M:
    """`options` of the call `what` as a wire model; an `InvalidArgumentError` names one that is wrong."""
    try:
        return model.model_validate(dict(options))
    except ValidationError as error:
        raise InvalidArgumentError(_error_message(model, error, what)) from None


def _error_message(model: type[BaseModel], error: ValidationError, what: str) -> str:
    first = error.errors(include_url=False)[0]
    name = ".".join(str(part) for part in first["loc"]) or what
    if first["type"] == "extra_forbidden":
        near = difflib.get_close_matches(name, model.model_fields, n=1)
        hint = f"did you mean `{near[0]}`?" if near else f"choose from {', '.join(model.model_fields)}."
        return f"`{name}` is not an option of {what}; {hint}"
    reason = first["msg"].removeprefix("Value error, ").removeprefix("Input ")
    return f"`{name}` {reason}, and is {first['input']!r}."
