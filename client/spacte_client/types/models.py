"""What is served: models, limits and health."""

from datetime import datetime
from typing import Literal

from pydantic import Field

from ._base import AnswerModel, RequestModel

__all__ = [
    "Diagnosis",
    "Health",
    "Info",
    "LoadProgress",
    "LoadRequest",
    "LoadStepName",
    "Model",
    "ModelList",
    "NoiseLevel",
    "Sample",
    "SampleList",
    "TrafficRequest",
    "VersionShare",
]

LoadStepName = Literal["waiting", "samplers", "reading", "checking", "kernels", "measuring", "spreading"]
"""The steps of a load in their order: the loads before it, samplers that start, the checkpoint, whether the network is
one fixed function, the choice of kernels, the rate, the other samplers."""


class NoiseLevel(AnswerModel):
    """How a model answers under noise of one level. What is certified is an estimate from few noises an image."""

    sigma: float = Field(description="Noise sd in units of [0, 1] pixels.")
    noisy_accuracy: float = Field(description="Share of noisy copies that are answered rightly.")
    certified_accuracy: dict[str, float] = Field(
        description="By radius: the share of images whose certificate is expected to be right and to reach it."
    )
    average_radius: float = Field(description="Expected mean over images of the radius, 0 where the label is wrong.")
    top_share: list[float] = Field(description="Votes of the leading class: lower quartile, median, upper quartile.")


class Diagnosis(AnswerModel):
    """What `spacte diagnose` found: what a model lacks to be certified."""

    data: str = Field(description="What it was measured on.")
    images: int = Field(description="How many images of that.")
    noises: int = Field(description="Noises an image and level.")
    alpha: float = Field(description="Of the certificates that are expected.")
    n: int = Field(description="Estimation noises of the certificates that are expected.")
    clean_accuracy: float = Field(description="Without noise.")
    levels: list[NoiseLevel] = Field(description="By noise level, ascending.")
    sigma: float = Field(description="The level that the model is served at.")
    device: str = Field(description="What drew.")
    samples_per_second: float = Field(description="Of one engine there.")
    seconds_per_certificate: float = Field(description="Of one certificate with `n` noises there.")
    advice: list[str] = Field(description="What to do next, in plain words.")
    model_version: str = Field(description="Whom it is about.")
    created_at: datetime = Field(description="When it was measured.")


class LoadProgress(AnswerModel):
    """How far the load of a model is."""

    step: LoadStepName = Field(description="Which step is under way.")
    number: int = Field(description="Of that step, from 1.")
    steps: int = Field(description="How many there are; the steps take differently long.")
    doing: str = Field(description="What is done now, in a few words.")
    seconds: float = Field(description="Since the load was asked for.")


class VersionShare(AnswerModel):
    """A version of a model that answers."""

    version: str = Field(description="SHA-256 over its checkpoint.")
    weight: float = Field(description="Its part of the model's requests, from 0 to 1.")
    precision: str | None = Field(default=None, description="Arithmetic it runs in.")


class LoadRequest(RequestModel):
    """What may be asked of a load; the body may be left out."""

    traffic: float | None = Field(
        default=None,
        ge=0,
        le=1,
        description="Keep the version that answers, and give the new one this part of its requests; null replaces it.",
    )
    source: str | None = Field(
        default=None,
        max_length=2048,
        description="Fetch the model first: URI#sha256=VERSION, the URI of a checkpoint folder below a prefix that the "
        "operator allows.",
        examples=["s3://bucket/models/digits#sha256=" + "5f" * 32],
    )


class TrafficRequest(RequestModel):
    """How to divide a model's requests among its versions."""

    weights: dict[str, float] = Field(
        description="By version, or at least six first digits of one, in any unit. One that is not named is unloaded.",
        examples=[{"3f9a1c": 0.9, "b07d55": 0.1}],
    )


class Model(AnswerModel):
    """One loaded (or loadable) base classifier."""

    name: str = Field(description="What requests call it: the name of its checkpoint folder.")
    version: str = Field(description="SHA-256 over the checkpoint folder's two files.")
    arch: str = Field(description="Network architecture, e.g. `cifar_resnet110`.")
    heads: int = Field(description="Classifier heads, whose summed logits decide.")
    method: str = Field(description="How it was trained, e.g. `spacte-gaussian`.")
    sigmas: list[float] = Field(description="Noise levels it is served at.")
    num_classes: int = Field(description="Classes, numbered from 0.")
    class_names: list[str] = Field(description="One a class.")
    input_shape: list[int] = Field(description="[channels, height, width].")
    normalization: str = Field(description="`standard`, `center` or `none`; applied inside the model.")
    dataset: str | None = Field(default=None, description="What it was trained on.")
    precision: str | None = Field(default=None, description="Arithmetic it runs in: `fp32`, `bf16` or `int8`.")
    state: Literal["loading", "ready", "unloaded", "failed"] = Field(
        description="A `ready` model answers, and a `loading` one whose `target_version` is not its `version`."
    )
    target_version: str | None = Field(
        default=None, description="The version that is being loaded; until it is, `version` answers if it is another."
    )
    progress: LoadProgress | None = Field(default=None, description="How far the load is; null where there is none.")
    traffic: list[VersionShare] = Field(
        default_factory=list[VersionShare],
        description="The versions that answer, and each one's part of the requests; first `version`.",
    )
    reason: str | None = Field(
        default=None, description="Why it, or the version in its folder, could not be loaded; null where it could."
    )
    metrics: dict[str, float] = Field(
        default_factory=dict[str, float], description="Figures recorded when it was trained, e.g. `test_accuracy`."
    )
    samples_per_second: float | None = Field(
        default=None,
        description="Noises a second that all samplers draw for this model alone, as measured; null where it does not "
        "answer. A certificate takes about `(n0 + n) / samples_per_second`.",
    )
    calibrated: bool = Field(
        default=False, description="Whether `spacte calibrate` was run, so that `POST /v1/sets` answers."
    )
    diagnosis: Diagnosis | None = Field(default=None, description="What `spacte diagnose` found for this version.")

    @property
    def answers(self) -> bool:
        """Whether requests are answered now, also by an old version while another one is being loaded."""
        return self.state == "ready" or (self.state == "loading" and self.version not in ("", self.target_version))


class ModelList(AnswerModel):
    """Answer of `GET /v1/models`."""

    data: list[Model] = Field(description="Every model of the service, whatever its state.")


class Sample(AnswerModel):
    """An image that a model was not trained on, to try it with."""

    name: str = Field(description="Unique among the model's samples.")
    label: int = Field(description="Its true class.")
    label_name: str = Field(description="The class's name.")
    data: str = Field(description="A PNG file in base64.")


class SampleList(AnswerModel):
    """Answer of `GET /v1/models/{name}/samples`."""

    data: list[Sample] = Field(description="Empty where the model's folder carries none.")


class Info(AnswerModel):
    """Answer of `GET /v1/info`: the version and every limit that a caller can trip over."""

    version: str = Field(description="Of the service.")
    limits: dict[str, float | int | bool] = Field(description="Every limit that a request is held to.")
    datasets: list[str] = Field(default_factory=list[str], description="Data sets that jobs may name.")
    samplers: int = Field(description="Samplers that draw noise now.")
    device: str = Field(description="What they run on, e.g. `cpu` or a GPU's name.")


class Health(AnswerModel):
    """Answer of `/livez` and `/readyz`."""

    status: Literal["ok", "unavailable"] = Field(description="`ok` where requests are served.")
    checks: dict[str, str] = Field(
        default_factory=dict[str, str], description="Each check by name: `ok`, or one sentence."
    )
