"""Batch jobs: a data set in, one certificate for every image out."""

from datetime import datetime
from typing import Annotated, Literal, Self

from pydantic import AfterValidator, Field, model_validator

from ._base import AnswerModel, PageInfo, RequestModel
from .brackets import Bracketed
from .certificates import MAX_SAMPLES, Certificate, CertifyParams
from .recertification import CertifiedAccuracy, Recertified

__all__ = [
    "RESUMABLE_STATES",
    "TERMINAL_STATES",
    "CertificateRecord",
    "DatasetInput",
    "ErrorRecord",
    "FileInput",
    "Job",
    "JobCounts",
    "JobError",
    "JobInput",
    "JobList",
    "JobParams",
    "JobRecord",
    "JobRequest",
    "JobState",
    "JobSummary",
    "UriInput",
]

JobState = Literal["queued", "running", "stalled", "succeeded", "failed", "cancelling", "cancelled", "interrupted"]

TERMINAL_STATES: frozenset[JobState] = frozenset({"succeeded", "failed", "cancelled"})
"""States that a job leaves only by `resume`. An `interrupted` one (its cluster is gone) may go on by itself."""

RESUMABLE_STATES: frozenset[JobState] = frozenset({"failed", "cancelled", "interrupted"})
"""The states from which `resume` is allowed."""


PREVIOUS_SHA256 = "SHA-256 of the line before in the results, so that a changed log is found; zeros in the first."
INPUT_SHA256 = (
    "SHA-256 of the input when the job was made: of a file its own, of several that of the lines of `sha256sum`. "
    "Each driver compares it, and looks for changes before each result."
)

LabelColumn = Annotated[
    str | None,
    Field(
        min_length=1,
        max_length=200,
        description="Column, array or field of the true class; null looks for `label`, `fine_label` and the like.",
    ),
]


class FileInput(RequestModel):
    """Images uploaded before with `POST /v1/files`."""

    type: Literal["file"] = Field(default="file", description="An uploaded file.")
    file_id: str = Field(min_length=1, description="The id of an uploaded npz, zip or parquet file, `file_...`.")
    label_column: LabelColumn = None


class UriInput(RequestModel):
    """Images that the service can reach itself, under a root that its operator allowed."""

    type: Literal["uri"] = Field(default="uri", description="A file that the service reads itself.")
    uri: str = Field(
        min_length=1,
        description="Of an npz, zip or parquet file, e.g. `file:///data/test.npz` or `s3://bucket/test.parquet`.",
    )
    label_column: LabelColumn = None


class DatasetInput(RequestModel):
    """Images of a data set that the service knows by name."""

    type: Literal["dataset"] = Field(default="dataset", description="A data set by name.")
    name: str = Field(min_length=1, description="The data set, e.g. `cifar10` or `digits`.")
    split: str = Field(default="test", description="Which part of it.")
    stride: int = Field(default=1, ge=1, description="Certify every so many images: indices 0, stride, 2 stride, ...")
    limit: int | None = Field(default=None, ge=1, description="Certify at most so many images.")
    label_column: LabelColumn = None


class JobParams(CertifyParams):
    """Options of every certificate of a job, and of an attack on each where `n_upper` is given."""

    stop_incorrect: bool = Field(
        default=False,
        description="Draw no estimation noises for an image whose selection noises choose another class than its true "
        "one: whatever they were, it would count as 0 in the ACR and in every certified accuracy.",
    )
    n_upper: int | None = Field(
        default=None,
        ge=100,
        le=MAX_SAMPLES,
        description="Attack each certificate, for an upper bound of the radius, with at most so many noises for each "
        "test; by default there is no attack.",
    )
    alpha_upper: float = Field(
        default=0.001, gt=0, lt=1, description="Probability that an upper bound is false, over the noise."
    )

    @model_validator(mode="after")
    def _beside_certify(self) -> Self:
        if self.certify is not None and self.n_upper is not None:
            raise ValueError("an attack asks what votes, and `certify` is about another function: leave one out")
        if self.certify is not None and self.stop_incorrect:
            raise ValueError("`certify` takes a fixed number of noises: leave `stop_incorrect` out")
        return self


JobInput = Annotated[FileInput | UriInput | DatasetInput, Field(discriminator="type")]


def _without_model(params: JobParams) -> JobParams:
    if params.model is not None:
        raise ValueError("the model is named beside `params`, not inside it")
    return params


class JobRequest(RequestModel):
    """Body of `POST /v1/jobs`."""

    input: JobInput | None = Field(default=None, description="The images; left out with `base_job`.")
    base_job: str | None = Field(
        default=None,
        description="The id of a job that has succeeded: its images again, for a changed model. Its certificates are "
        "carried over where that takes fewer noises, else made anew; input and `params` are those of that job.",
    )
    model: str | None = Field(
        default=None,
        description="The model's name; optional where one model is loaded, and with `base_job`, whose it is then.",
    )
    params: Annotated[JobParams, AfterValidator(_without_model)] = Field(
        default_factory=JobParams, description="Options of every certificate of the job."
    )
    metadata: dict[Annotated[str, Field(max_length=64)], Annotated[str, Field(max_length=512)]] = Field(
        default_factory=dict[str, str], max_length=16, description="The caller's own notes, kept with the job."
    )

    @model_validator(mode="after")
    def _either_images_or_a_job(self) -> Self:
        if (self.input is None) == (self.base_job is None):
            raise ValueError("name either the images by `input`, or a job of theirs by `base_job`")
        if self.base_job is not None and self.params != JobParams():
            raise ValueError("with `base_job` the options are those of that job: leave `params` out")
        return self


class JobCounts(AnswerModel):
    """How far a job is. `certified + abstained + errored + remaining = total`."""

    total: int | None = Field(default=None, ge=0, description="Images in the job; null until the input has been read.")
    certified: int = Field(default=0, ge=0, description="Images with a radius above 0.")
    abstained: int = Field(default=0, ge=0, description="Images on which the smoothed classifier abstains.")
    errored: int = Field(default=0, ge=0, description="Images that could not be certified, each with its reason.")
    remaining: int | None = Field(default=None, ge=0, description="Images still to do; null until the input is read.")

    @property
    def done(self) -> int:
        """Images finished, in whichever way."""
        return self.certified + self.abstained + self.errored


class JobError(AnswerModel):
    """Why a job failed or was interrupted, or why one of its images has no certificate."""

    code: str = Field(description="Stable, for programs, e.g. `bad_image`.")
    detail: str = Field(description="One sentence that names the remedy.")


class Job(AnswerModel):
    """A batch of certificates."""

    id: str = Field(description="`job_...`")
    state: JobState = Field(
        description="`succeeded` may hold errored images: the counts say so. `stalled`: the service's disk or database "
        "takes no writes; it goes on by itself."
    )
    counts: JobCounts = Field(description="How far it is.")
    input: JobInput = Field(description="The images, as they were asked for.")
    base_job: str | None = Field(default=None, description="The job whose certificates it carries over, if any.")
    model: str = Field(description="The model's name.")
    model_version: str | None = Field(default=None, description="SHA-256 over the checkpoint that the job is bound to.")
    input_sha256: str | None = Field(default=None, description=INPUT_SHA256)
    params: JobParams = Field(description="Options of every certificate, as they were asked for.")
    metadata: dict[str, str] = Field(default_factory=dict[str, str], description="The caller's own notes.")
    created_at: datetime = Field(description="When it was accepted, UTC.")
    started_at: datetime | None = Field(default=None, description="When it first ran, UTC.")
    ended_at: datetime | None = Field(default=None, description="When it last came to an end, UTC.")
    error: JobError | None = Field(default=None, description="Why it failed or was interrupted.")
    ray_submission_id: str | None = Field(default=None, description="The driver's id on the Ray cluster.")
    results_url: str = Field(description="Where its records are, `/v1/jobs/{id}/results`.")

    @property
    def ended(self) -> bool:
        """Whether nothing more will happen unless someone resumes the job."""
        return self.state in TERMINAL_STATES


class JobList(PageInfo):
    """Answer of `GET /v1/jobs`: one page, newest first."""

    data: list[Job] = Field(description="The jobs of this page.")


BEGUN = "Images of the job begun when this line was written: what a summary of an unfinished job is about."


class CertificateRecord(Certificate):
    """One finished image of a job: its certificate, and where in the input it stands."""

    outcome: Literal["certified", "abstained"] = Field(description="`certified` where the radius is above 0.")
    index: int = Field(ge=0, description="Row of the image in the input, from 0, whatever the stride.")
    custom_id: str | None = Field(default=None, description="The caller's name for the row, where the input has one.")
    true_label: int | None = Field(default=None, description="The true class, where the input has one.")
    correct: bool | None = Field(
        default=None, description="Whether `label` is `true_label`; null without a true class."
    )
    input_sha256: str | None = Field(default=None, description=INPUT_SHA256)
    votes: int | None = Field(
        default=None, description="Votes cast for it by either model, where the job has a `base_job`."
    )
    upper: float | None = Field(
        default=None,
        description="Distance of an image with another answer, where the job attacks and one was found; no certificate "
        "beyond it can be true.",
    )
    attack_noises: int | None = Field(default=None, description="Noises of the attack; null where there was none.")
    begun: int | None = Field(default=None, description=BEGUN)
    previous_sha256: str | None = Field(default=None, description=PREVIOUS_SHA256)


class ErrorRecord(AnswerModel):
    """One image of a job that could not be certified. The job goes on."""

    outcome: Literal["errored"] = Field(default="errored", description="Tells it from a certificate.")
    index: int = Field(ge=0, description="Row of the image in the input, from 0, whatever the stride.")
    custom_id: str | None = Field(default=None, description="The caller's name for the row, where the input has one.")
    true_label: int | None = Field(default=None, description="The true class, where the input has one.")
    error: JobError = Field(description="Why there is no certificate.")
    input_sha256: str | None = Field(default=None, description=INPUT_SHA256)
    begun: int | None = Field(default=None, description=BEGUN)
    previous_sha256: str | None = Field(default=None, description=PREVIOUS_SHA256)


JobRecord = Annotated[CertificateRecord | ErrorRecord, Field(discriminator="outcome")]
"""One line of `GET /v1/jobs/{id}/results`."""


class JobSummary(AnswerModel):
    """Answer of `GET /v1/jobs/{id}/summary`: what the finished images of a job show together."""

    images: int = Field(ge=0, description="Images with a certificate or an abstention.")
    begun: int = Field(
        default=0,
        ge=0,
        description="Images begun by the last result, less those errored: what the statement is about, because the "
        "first to finish are no random choice.",
    )
    abstained: int = Field(ge=0, description="Those without a label: abstentions, and what `incorrect` counts.")
    incorrect: int = Field(
        default=0, ge=0, description="Those of `abstained` that were stopped because another class was chosen."
    )
    errored: int = Field(default=0, ge=0, description="Images without a certificate; not counted in `images`.")
    labelled: int = Field(default=0, ge=0, description="Images with a true class: what `acr` and the rows are over.")
    labels: str | None = Field(default=None, description="Where some images have no true class: how many, a sentence.")
    acr: float | None = Field(default=None, description="Average certified radius: the mean of correct x radius.")
    certified_accuracy: list[CertifiedAccuracy] = Field(
        default_factory=list[CertifiedAccuracy], description="At a grid of radii; empty without true classes."
    )
    confidence: float = Field(default=0.95, gt=0, lt=1, description="Of the intervals [low, high], each by itself.")
    sigma: float | None = Field(default=None, description="Noise level; null when no image is finished.")
    alpha: float | None = Field(default=None, description="Failure probability of each certificate by itself.")
    rho: float | None = Field(default=None, description="Failure probability of the statement about all of them.")
    max_false: int | None = Field(
        default=None, ge=0, description="With probability 1 - rho no more than so many certificates are false."
    )
    statement: str | None = Field(default=None, description="The same in one sentence.")
    brackets: Bracketed | None = Field(default=None, description="Of a job with `n_upper`: what the attacks found.")
    recertified: Recertified | None = Field(
        default=None, description="Of a job with `base_job`: what became of that job's certificates."
    )

    @property
    def counts_text(self) -> str:
        """`500 images, 9 abstained (7 stopped as incorrect), 0 errored`."""
        stopped = f" ({self.incorrect:,} stopped as incorrect)" if self.incorrect else ""
        return f"{self.images:,} images, {self.abstained:,} abstained{stopped}, {self.errored:,} errored"
