"""From outcomes to two more answers on the wire: `PredictionSet` and `Bracket`."""

import base64
from datetime import datetime

import numpy as np
from numpy.typing import NDArray

from spacte_client.rounding import round_up
from spacte_client.types import AdversarialImage, Bracket, Certificate, PredictionSet, SetCalibration, SetParams
from spacte_workers.images import image_sha256, to_file
from spacte_workers.shards import Image

from .attack import Adversarial
from .certificates import ModelIdentity, preprocessing
from .prediction_sets import SetSpec
from .set_calibration import Calibration


def prediction_set(
    spec: SetSpec,
    params: SetParams,
    calibration: Calibration,
    logits_NK: NDArray[np.float32],
    model: ModelIdentity,
    *,
    id: str,  # noqa: A002  the wire's name
    image: Image,
    elapsed_ms: float,
) -> PredictionSet:
    """The prediction set that these logits give. Arguments as for `certificate`."""
    labels = spec.labels(logits_NK)
    about = {name: getattr(calibration, name) for name in ("noise", "precision", "kernels", "data", "data_sha256")}
    images, samples = calibration.scores_MN.shape
    return PredictionSet(
        id=id,
        model=model.name,
        model_version=model.version,
        image_sha256=image_sha256(image),
        preprocessing=preprocessing(image.steps),
        labels=labels,
        label_names=[model.class_names[label] for label in labels],
        alpha=params.alpha,
        radius=params.radius,
        method=params.method,
        samples=spec.rule.samples,
        sigma=calibration.sigma,
        seed=spec.scores.seed,
        calibration=SetCalibration(
            images=images, samples=samples, created_at=datetime.fromisoformat(calibration.created_at), **about
        ),
        elapsed_ms=elapsed_ms,
    )


def bracket(
    lower: Certificate,
    found: Adversarial | None,
    model: ModelIdentity,
    *,
    alpha_upper: float,
    attack_noises: int,
    elapsed_ms: float,
) -> Bracket:
    """A certificate and what an attack found, together; `attack_noises` are those that it drew."""
    adversarial = None
    if found is not None:
        outcome = found.outcome
        adversarial = AdversarialImage(
            label=outcome.label,
            label_name=model.class_names[outcome.label],
            data=base64.b64encode(to_file(found.image)).decode(),
            counts=list(outcome.counts),
            n=outcome.n,
            p_value=outcome.p_value,
        )
    return Bracket(
        id=lower.id.replace("cert_", "bracket_"),
        lower=lower.radius,
        upper=None if found is None else round_up(found.distance),
        alpha_lower=lower.alpha,
        alpha_upper=alpha_upper,
        certificate=lower,
        adversarial=adversarial,
        attack_noises=attack_noises,
        elapsed_ms=elapsed_ms,
    )
