"""Robust prediction sets: `POST /v1/sets`."""

from datetime import datetime
from typing import Literal

from pydantic import Field

from ._base import AnswerModel
from .carried import Precision
from .certificates import MAX_RADIUS, ImageParams, ImageSource, Noise, Preprocessing

__all__ = ["PredictionSet", "SetCalibration", "SetMethod", "SetParams", "SetRequest"]

SetMethod = Literal["rcp1", "bincp"]


class SetParams(ImageParams):
    """Options of a prediction set (Zargarbashi & Bojchevski 2025)."""

    alpha: float = Field(default=0.1, gt=0, lt=1, description="Probability that the set misses the true class.")
    radius: float = Field(
        ge=0,
        le=MAX_RADIUS,
        allow_inf_nan=False,
        description="L2 radius in units of [0, 1] pixels within which a perturbation may move the image.",
    )
    method: SetMethod = Field(
        default="rcp1", description="`rcp1`: one noise, milliseconds. `bincp`: many noises, smaller sets."
    )


class SetRequest(SetParams):
    """Body of `POST /v1/sets`."""

    image: ImageSource = Field(description="What to classify.")


class SetCalibration(AnswerModel):
    """The images that a model's prediction sets rest on, made by `spacte calibrate`."""

    images: int = Field(description="Calibration images.")
    samples: int = Field(description="Noises drawn for each of them.")
    noise: Noise = Field(description="Kind of noise.")
    precision: Precision = Field(description="Arithmetic of the network.")
    kernels: str = Field(description="What computed the scores.")
    data: str = Field(description="The data set, as it was named.")
    data_sha256: str = Field(description="SHA-256 over the pixels and labels.")
    created_at: datetime = Field(description="When it was made, UTC.")


class PredictionSet(AnswerModel):
    """Classes that hold the true one with probability at least 1 - alpha, however the image was moved by `radius`.

    The probability is over images of the calibration's distribution and over noise (marginal), not for each image.
    """

    id: str = Field(description="Of this answer, unique.")
    model: str = Field(description="The model's name.")
    model_version: str = Field(description="SHA-256 over the checkpoint.")
    image_sha256: str = Field(description="SHA-256 of the decoded pixels: shape, type and values.")
    labels: list[int] = Field(description="Classes in the set, most probable first.")
    label_names: list[str] = Field(description="Their names.")
    alpha: float = Field(description="Probability that the set misses the true class.")
    radius: float = Field(description="L2 radius that perturbations may have, in units of [0, 1] pixels.")
    method: SetMethod = Field(description="How it was made.")
    samples: int = Field(description="Noises drawn for this image.")
    sigma: float = Field(description="Noise level in units of [0, 1] pixels.")
    seed: str = Field(description="Seed of the noises, 32 hex digits.")
    preprocessing: Preprocessing | None = Field(
        default=None, description="What was done to the picture; null where its pixels went to the model as decoded."
    )
    calibration: SetCalibration = Field(description="What the level rests on.")
    elapsed_ms: float = Field(description="From the request's arrival to its answer.")
