"""The main requests and answers: certify and predict.

Names are the field's: `n0` selection noises, `n` estimation noises, `alpha` failure probability, `sigma`
noise level. Everything statistical is defined in Cohen et al. 2019; early stopping in the documentation's
guarantees page.
"""

from datetime import datetime
from typing import Annotated, Literal

from pydantic import Field

from ._base import AnswerModel, RequestModel
from .carried import Carried, Precision
from .remote import Remote
from .signatures import Envelope

__all__ = [
    "ABSTAIN",
    "MAX_SAMPLES",
    "Base64Image",
    "Bound",
    "Certificate",
    "CertifyParams",
    "CertifyRequest",
    "Conversion",
    "FileImage",
    "ImageParams",
    "ImageSource",
    "Noise",
    "PredictBatchRequest",
    "PredictParams",
    "PredictRequest",
    "Prediction",
    "PredictionList",
    "Preprocessing",
    "RequestedBound",
    "SeedSource",
    "StopReason",
]

ABSTAIN = -1
"""The label of an answer that is not given: the noises did not support one at the confidence asked."""

MAX_SAMPLES = 10_000_000
"""The largest `n` or `n0`. Chosen: a hundred times what papers draw; operators set a lower limit (`GET /v1/info`)."""

MAX_RADIUS = 1e6
"""The largest radius or tolerance that can be asked for. Chosen: far beyond any image, and exact to 6 digits."""

MAX_DEADLINE_MS = 86_400_000
"""Chosen: a day; what takes longer is a job."""

Radius = Annotated[float, Field(gt=0, le=MAX_RADIUS, allow_inf_nan=False)]

Bound = Literal["clopper_pearson", "two_class"]
Conversion = Literal["channels", "orientation", "depth", "transparency"]
RequestedBound = Literal["auto", "clopper_pearson", "two_class"]
SeedSource = Literal["service", "caller"]
Noise = Literal["grid", "float"]
StopReason = Literal["n_max", "target", "futility", "unprovable", "tolerance", "deadline", "incorrect", "cancelled"]


class Base64Image(RequestModel):
    """An image inside the JSON body."""

    type: Literal["base64"] = Field(default="base64", description="The image is in the body.")
    data: str = Field(min_length=1, description="The bytes of a PNG, JPEG, WebP or npy file, in base64.")


class FileImage(RequestModel):
    """An image uploaded before with `POST /v1/files`."""

    type: Literal["file"] = Field(default="file", description="The image was uploaded before.")
    file_id: str = Field(description="The id of the uploaded file, `file_...`.")


ImageSource = Annotated[Base64Image | FileImage, Field(discriminator="type")]


class ImageParams(RequestModel):
    """Options of every request about an image: which function answers, and of which pixels."""

    model: str | None = Field(default=None, description="The model's name; optional where one model is loaded.")
    sigma: float | None = Field(
        default=None, gt=0, description="Noise level in pixel units of [0, 1]; must be one the model is served at."
    )
    resize: bool = Field(
        default=False,
        description="Scale the image and crop its centre to the model's input, as in its training; the radius is about "
        "the result.",
    )
    enlarge: bool = Field(
        default=False, description="With `resize`: also where that enlarges; a radius then overstates that of the file."
    )
    convert: list[Conversion] = Field(
        default_factory=list[Conversion],
        description="What may be changed besides: `channels` (grey, RGB, CMYK), `orientation` (turned as EXIF says), "
        "`depth` (16 bits to the upper 8), `transparency` (laid on white). Else such images are refused, unless the "
        "model was trained so.",
    )
    seed: str | None = Field(
        default=None, pattern="^[0-9a-f]{32}$", description="128-bit seed in hex; only where the operator allows it."
    )


# Defaults: `n0` and `alpha` as in Cohen et al. 2019, section 4; `n` a hundredth and a tenth
# of its 100,000, chosen for an answer in seconds on a CPU.
class PredictParams(ImageParams):
    """Options of a prediction: the exact two-sided test of Cohen et al. 2019 section 3.2.1."""

    n: int = Field(default=1_000, ge=1, le=MAX_SAMPLES, description="The most noises to draw.")
    alpha: float = Field(default=0.001, gt=0, lt=1, description="Probability of a wrong answer that is tolerated.")
    noise: Noise = Field(
        default="grid", description="`grid`: exact integer noise for 8-bit images. `float`: as published."
    )
    k_consensus: int | None = Field(
        default=None, ge=1, description="If the first k heads agree, their class is the vote and the rest are not run."
    )


class CertifyParams(PredictParams):
    """Options of a certificate: prediction and L2 radius, Cohen et al. 2019 section 3.2.2."""

    n0: int = Field(default=100, ge=1, le=MAX_SAMPLES, description="Noises drawn to choose the class.")
    n: int = Field(default=10_000, ge=1, le=MAX_SAMPLES, description="The most estimation noises to draw.")
    bound: RequestedBound = Field(
        default="auto",
        description="`clopper_pearson` bounds the chosen class alone, `two_class` also the runner-up; `auto` takes "
        "what promises the larger radius by the selection votes.",
    )
    target_radius: Radius | None = Field(
        default=None,
        description="Stop as soon as this L2 radius is shown, is out of reach, or cannot be shown within `n` any more.",
    )
    tolerance: Radius | None = Field(
        default=None, description="Stop when drawing on to `n` can add less than this to the radius."
    )
    deadline_ms: int | None = Field(
        default=None, ge=1, le=MAX_DEADLINE_MS, description="Answer by then with the radius that is proven so far."
    )
    certify: Literal["fp32"] | None = Field(
        default=None,
        description="Certify the plain float32 network, whatever casts the votes: a tenth of `n` more noises are voted "
        "on by both, and what they differ in is taken off. Goes with a fixed `n` only.",
    )


class PredictRequest(PredictParams):
    """Body of `POST /v1/predict`."""

    image: ImageSource = Field(description="What to classify.")


class PredictBatchRequest(PredictParams):
    """Body of `POST /v1/predict` for several images, each answered with noises of its own."""

    images: list[ImageSource] = Field(
        min_length=1, description="What to classify; at most `max_client_batch_size` of `GET /v1/info`."
    )


class CertifyRequest(CertifyParams):
    """Body of `POST /v1/certify` and `POST /v1/certify/stream`."""

    image: ImageSource = Field(description="What to classify.")


class Preprocessing(AnswerModel):
    """What was done to a picture before the model got it. A radius is about the pixels that the model got."""

    source_size: tuple[int, int] = Field(description="[height, width] in the file.")
    orientation: int | None = Field(default=None, description="The EXIF orientation that was undone, 2 to 8.")
    channels: str | None = Field(default=None, description="How channels were converted, e.g. `grey_to_rgb`.")
    resize: tuple[int, int] | None = Field(default=None, description="[height, width] that it was scaled to.")
    crop: tuple[int, int, int, int] | None = Field(
        default=None, description="[top, left, height, width] of the part that was cut out after scaling."
    )
    resample: str | None = Field(default=None, description="The filter of the scaling, by Pillow's name.")
    bits: int | None = Field(default=None, description="Bits of a sample in the file, where the upper 8 were taken.")
    background: str | None = Field(default=None, description="What transparent pixels were laid on.")
    note: str | None = Field(default=None, description="What that means for the radius, one sentence.")


class Prediction(AnswerModel):
    """What the smoothed classifier answers for one image, correct with probability at least 1 - alpha."""

    id: str = Field(description="Of this answer, unique.")
    model: str = Field(description="The model's name.")
    model_version: str = Field(description="SHA-256 over the checkpoint.")
    label: int = Field(description="The class, or -1 when abstained.")
    label_name: str | None = Field(description="The class's name, or null when abstained.")
    abstained: bool = Field(description="Whether the noises supported no label at this confidence.")
    p_value: float = Field(description="Of the two-sided binomial test between the two most frequent classes.")
    counts: list[int] = Field(description="Votes per class; with `invalid` they sum to `n`.")
    invalid: int = Field(default=0, ge=0, description="Noises without a vote: a logit was NaN or infinite.")
    n: int = Field(description="Noises drawn.")
    alpha: float = Field(description="Probability of a wrong answer, over the noise.")
    sigma: float = Field(description="Noise level in units of [0, 1] pixels.")
    noise: Noise = Field(description="`grid`: exact integer noise. `float`: plain floating-point Gaussian.")
    precision: Precision = Field(description="Arithmetic of the network: part of the function certified.")
    k_consensus: int | None = Field(default=None, description="As asked for; part of the function that answers.")
    seed: str = Field(description="Seed of all noises of this answer, 32 hex digits.")
    seed_source: SeedSource | None = Field(default=None, description="Who chose the seed.")
    image_sha256: str | None = Field(default=None, description="SHA-256 of the decoded pixels: shape, type and values.")
    kernels: str | None = Field(default=None, description="What computed the votes: part of the function that answers.")
    schema_version: int = Field(default=1, description="From 2 on the noise key holds the request, too.")
    preprocessing: Preprocessing | None = Field(
        default=None, description="What was done to the picture; null where the model got its pixels as decoded."
    )
    remote: Remote | None = Field(default=None, description="As in a certificate: the endpoint that voted.")
    elapsed_ms: float = Field(description="From the request's arrival to its answer.")


class PredictionList(AnswerModel):
    """Answer of `POST /v1/predict` for several images."""

    data: list[Prediction] = Field(description="One an image, in the order of the request.")


class Certificate(AnswerModel):
    """A label, and an L2 radius within which the smoothed classifier keeps it, with confidence 1 - alpha."""

    schema_version: int = Field(
        default=1, description="From 2 on the noise key holds the request, so that no rule can be restated afterwards."
    )
    id: str = Field(description="Of this answer, unique.")
    model: str = Field(description="The model's name.")
    model_version: str = Field(description="SHA-256 over the checkpoint.")
    image_sha256: str = Field(description="SHA-256 of the decoded pixels: shape, type and values.")
    label: int = Field(description="The class, or -1 when abstained.")
    label_name: str | None = Field(description="The class's name, or null when abstained.")
    abstained: bool = Field(
        description="Whether there is no label: the noises supported none at this confidence, or `stop_reason` says "
        "`incorrect`."
    )
    radius: float = Field(ge=0, description="Certified L2 radius in units of [0, 1] pixels, rounded down.")
    p_lower: float = Field(description="Lower confidence bound on the probability of `label` under noise.")
    sigma: float = Field(description="Noise level in units of [0, 1] pixels.")
    alpha: float = Field(description="Probability of a wrong answer, over the noise.")
    n0: int = Field(description="Selection noises drawn.")
    n: int = Field(description="Estimation noises drawn.")
    n_max: int = Field(description="Estimation noises that the request allowed.")
    counts: list[int] = Field(description="Estimation votes per class; with `invalid` they sum to `n`.")
    invalid: int = Field(
        default=0,
        ge=0,
        description="Estimation noises without a vote: a logit was NaN or infinite. The bound uses `n`.",
    )
    selection_counts: list[int] = Field(
        description="Selection votes per class; they sum to `n0`, less those without a vote."
    )
    redrawn: int = Field(
        default=0,
        ge=0,
        description="Selection noises whose logits were computed a second time, among other neighbours, and came out "
        "the same.",
    )
    bound: Bound = Field(description="How votes become `p_lower` and `radius`.")
    bound_requested: RequestedBound | None = Field(
        default=None, description="The bound asked for: `auto` chooses one by the selection votes. Null in version 1."
    )
    noise: Noise = Field(description="`grid`: exact integer noise. `float`: plain floating-point Gaussian.")
    noise_error: float = Field(
        default=0.0, description="Total variation between the noise as drawn and the Gaussian; taken off `p_lower`."
    )
    precision: Precision = Field(description="Arithmetic of the network: part of the function certified.")
    k_consensus: int | None = Field(description="As asked for; part of the function certified.")
    target_radius: float | None = Field(default=None, description="The stopping rule asked for, if any.")
    tolerance: float | None = Field(default=None, description="The stopping rule asked for, if any.")
    deadline_ms: int | None = Field(default=None, description="The stopping rule asked for, if any.")
    expected: int | None = Field(
        default=None,
        description="The true class, where a job stops images whose selection noises choose another; null elsewhere.",
    )
    stop_reason: StopReason = Field(description="Why no more noises were drawn.")
    looks: int = Field(description="How often the bound was looked at; 1 without a stopping rule, 0 without noises.")
    seed: str = Field(description="Seed of all noises of this certificate, 32 hex digits.")
    seed_source: SeedSource | None = Field(
        default=None,
        description="Who chose the seed; a caller who may choose among seeds proves less. Null in version 1.",
    )
    preprocessing: Preprocessing | None = Field(
        default=None, description="What was done to the picture; null where the model got its pixels as decoded."
    )
    image_index: int = Field(default=0, description="The image's position in its request or job; enters the noise key.")
    versions: dict[str, str] = Field(
        description="Versions of the software that made it, and which kernels computed the votes."
    )
    created_at: datetime = Field(description="When it was made, UTC.")
    elapsed_ms: float = Field(description="From the request's arrival to its answer.")
    queue_ms: float = Field(description="Part of `elapsed_ms` before the first noise was drawn.")
    carried: Carried | None = Field(
        default=None,
        description="Where another function than `model` at `precision` cast the votes: which, and what carries them "
        "over. `p_lower` and `radius` are about `model`.",
    )
    remote: Remote | None = Field(
        default=None,
        description="Where the votes are those of a model behind an endpoint: which. It is trusted to be one function.",
    )
    signature: Envelope | None = Field(
        default=None, description="Over all other fields, where the service signs; `spacte verify --key` checks it."
    )
