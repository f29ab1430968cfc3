"""From an outcome to the answer on the wire: `Certificate` and `Prediction`."""

import math
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from functools import cache
from typing import Any

from spacte_client.types import Certificate, Precision, Prediction, Preprocessing, Remote
from spacte_core.preprocessing import Steps
from spacte_core.versions import installed_version

from .algorithm import CertifySpec, Outcome
from .prediction import PredictOutcome, PredictSpec

KERNELS = "kernels"
"""The entry of a certificate's `versions` that says which kernels computed the votes."""

SCHEMA_VERSION = 2
"""Of certificates whose rules are bound to their noise; those of version 1 have none."""

_VERSIONED = ("spacte-workers", "torch", "numpy", "scipy")


@dataclass(frozen=True, slots=True)
class ModelIdentity:
    """Which function voted.

    Attributes:
        name, version: of the model, and SHA-256 over its checkpoint.
        class_names: one name per class.
        precision, kernels: arithmetic of the votes, and what computes them: others round a little differently.
        remote: the endpoint that votes; None where the model is here.
    """

    name: str
    version: str
    class_names: tuple[str, ...]
    precision: Precision
    kernels: str
    remote: Remote | None = None


@cache
def software_versions() -> dict[str, str]:
    """Versions of the installed software that a certificate depends on."""
    return {name: installed_version(name) for name in _VERSIONED}


def certificate(
    spec: CertifySpec,
    outcome: Outcome,
    model: ModelIdentity,
    *,
    id: str,  # noqa: A002  the wire's name
    image_sha256: str,
    elapsed_ms: float,
    queue_ms: float = 0.0,
    deadline_ms: int | None = None,
    steps: Steps | None = None,
) -> Certificate:
    """The certificate that says everything needed to check it.

    Args:
        spec, outcome, model: what was asked, the answer, and which function voted.
        id: the request's id.
        image_sha256: of the decoded pixels.
        elapsed_ms: from the first shard to the outcome; `queue_ms` from the arrival to the first shard.
        deadline_ms: the time limit that was asked for, if any.
        steps: what was done to the picture.
    """
    return Certificate(
        **_answer(spec, outcome, model),
        id=id,
        image_sha256=image_sha256,
        n_max=spec.n_max,
        bound_requested=spec.bound,
        noise_error=spec.noise_error,
        target_radius=spec.target_radius,
        tolerance=spec.tolerance,
        deadline_ms=deadline_ms,
        expected=spec.expected,
        preprocessing=preprocessing(steps),
        image_index=spec.image_index,
        versions={**software_versions(), KERNELS: model.kernels},
        created_at=datetime.now(UTC),
        elapsed_ms=elapsed_ms,
        queue_ms=queue_ms,
    )


def prediction(
    spec: PredictSpec,
    outcome: PredictOutcome,
    model: ModelIdentity,
    *,
    id: str,  # noqa: A002  the wire's name
    image_sha256: str,
    elapsed_ms: float,
    steps: Steps | None = None,
) -> Prediction:
    """The prediction, with the counts that support it. Arguments as for `certificate`."""
    return Prediction(
        **_answer(spec, outcome, model),
        id=id,
        image_sha256=image_sha256,
        kernels=model.kernels,
        preprocessing=preprocessing(steps),
        elapsed_ms=elapsed_ms,
    )


def preprocessing(steps: Steps | None) -> Preprocessing | None:
    """What was done to a picture as an answer says it, with what that means for a radius."""
    if steps is None:
        return None
    note = None
    if steps.resize is not None:
        (height, width), (down, across) = steps.resize, steps.source_size
        note = (
            f"The picture of {down} x {across} pixels was scaled to {height} x {width}: "
            "the radius is about the model's input, not about the file."
        )
        # So much longer is a move that shifts all pixels alike: the length is the root of a sum over pixels.
        growth = math.sqrt(height * width / (down * across))
        if growth > 1:
            note += f" For the file's own pixels it is about {growth:.3g} times smaller."
    return Preprocessing(**asdict(steps), note=note)


def _answer(spec: CertifySpec | PredictSpec, outcome: Outcome | PredictOutcome, model: ModelIdentity) -> dict[str, Any]:
    """What every answer says of the model, the question and the outcome."""
    return {
        **asdict(outcome),
        "invalid": outcome.n - sum(outcome.counts),
        "model": model.name,
        "model_version": model.version,
        "label_name": None if outcome.abstained else model.class_names[outcome.label],
        "precision": model.precision,
        "sigma": spec.sigma,
        "alpha": spec.alpha,
        "noise": spec.noise,
        "k_consensus": spec.k_consensus,
        "seed": spec.seed,
        "seed_source": spec.seed_source,
        "schema_version": SCHEMA_VERSION,
        "remote": model.remote,
    }
