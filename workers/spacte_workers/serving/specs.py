"""From what a caller asks to what is drawn: wire parameters, model and image to a specification, or a no."""

import math

from spacte_client.types import CertifyParams, PredictParams
from spacte_workers.certification.algorithm import CertifySpec
from spacte_workers.certification.prediction import PredictSpec
from spacte_workers.errors import BadParameterError
from spacte_workers.images import BadImageError
from spacte_workers.noise.table import noise_table
from spacte_workers.shards import Image

from .model_store import ServedModel


def certify_spec(
    params: CertifyParams, model: ServedModel, image: Image, *, seed: str, image_index: int = 0
) -> CertifySpec:
    """The certificate asked for. It may compute a noise table for a tenth of a second: call it in a thread.

    Args:
        params: what is asked; `n` is the most estimation noises.
        model: which is asked.
        image: decoded pixels.
        seed: 32 hex digits, drawn once the image is there.
        image_index: which noises of the seed.

    Raises:
        BadImageError: the image does not have the model's input shape.
        BadParameterError: an option that this model or this image does not allow.
    """
    _check_shape(image, model)
    return CertifySpec(
        sigma=_sigma(params, model),
        num_classes=model.config.model.num_classes,
        pixels=math.prod(image.shape),
        n0=params.n0,
        n_max=params.n,
        alpha=params.alpha,
        bound=params.bound,
        noise=params.noise,
        seed=seed,
        image_index=image_index,
        k_consensus=_consensus(params, model),
        target_radius=params.target_radius,
        tolerance=params.tolerance,
        deadline=params.deadline_ms is not None,
        noise_error=_noise_error(params, model, image),
    )


def predict_spec(params: PredictParams, model: ServedModel, image: Image, *, seed: str) -> PredictSpec:
    """The prediction asked for. Arguments and errors as for `certify_spec`."""
    _check_shape(image, model)
    _noise_error(params, model, image)  # refuses the same combinations
    return PredictSpec(
        sigma=_sigma(params, model),
        num_classes=model.config.model.num_classes,
        n=params.n,
        alpha=params.alpha,
        noise=params.noise,
        seed=seed,
        k_consensus=_consensus(params, model),
    )


def _check_shape(image: Image, model: ServedModel) -> None:
    expected = tuple(model.config.model.input_shape)
    if tuple(image.shape) != expected:
        raise BadImageError(f"The image has shape {list(image.shape)}, but model {model.name} takes {list(expected)}.")


def _sigma(params: PredictParams, model: ServedModel) -> float:
    """A model is served at the noise level that it was trained for."""
    if params.sigma is not None and params.sigma != model.config.sigma:
        only = f"Model {model.name} is served at sigma {model.config.sigma:g} only"
        raise BadParameterError("sigma", f"{only}: ask for that, or leave it out.")
    return model.config.sigma


def _consensus(params: PredictParams, model: ServedModel) -> int | None:
    heads = model.config.model.heads
    if params.k_consensus is not None and params.k_consensus > heads:
        sentence = f"Model {model.name} has {heads} heads: ask for a k_consensus of at most {heads}."
        raise BadParameterError("k_consensus", sentence)
    return params.k_consensus


def _noise_error(params: PredictParams, model: ServedModel, image: Image) -> float:
    """Total variation between the noise as drawn and the Gaussian, over all pixels."""
    if params.noise == "float":
        return 0.0
    if image.dtype != "uint8":
        sentence = "Grid noise is for 8-bit images, and this one is between their steps: ask for float noise."
        raise BadParameterError("noise", sentence)
    try:
        table = noise_table(model.config.sigma)
    except ValueError as error:  # sigma is beyond the table
        raise BadParameterError("noise", str(error)) from error
    return table.total_variation * math.prod(image.shape)
