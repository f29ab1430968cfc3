"""What a change of the model did to the certificates of a job."""

from pydantic import Field

from ._base import AnswerModel

__all__ = ["CertifiedAccuracy", "PairedAccuracy", "Recertified", "WorseImage"]


class CertifiedAccuracy(AnswerModel):
    """Share of images answered correctly with at least `radius`, and its exact binomial interval."""

    radius: float = Field(ge=0, description="L2 radius in units of [0, 1] pixels.")
    value: float = Field(ge=0, le=1, description="The share; an abstention counts as wrong.")
    low: float = Field(ge=0, le=1, description="Lower end of the two-sided Clopper-Pearson interval.")
    high: float = Field(ge=0, le=1, description="Upper end of the two-sided Clopper-Pearson interval.")


class PairedAccuracy(AnswerModel):
    """Certified accuracy at a radius before and after, on the same images."""

    radius: float = Field(ge=0, description="L2 radius in units of [0, 1] pixels.")
    before: float = Field(ge=0, le=1, description="Of the base job.")
    after: float = Field(ge=0, le=1, description="Of this job.")
    standard_error: float = Field(ge=0, description="Of the difference.")
    p_value: float = Field(ge=0, le=1, description="Of McNemar's exact test, for this radius by itself.")


class WorseImage(AnswerModel):
    """An image whose certificate got worse."""

    index: int = Field(ge=0, description="Row of the image in the input.")
    label_before: int = Field(description="Class of the base job's certificate; -1 for an abstention.")
    radius_before: float = Field(ge=0, description="Its radius.")
    label: int = Field(description="Class of the new certificate; -1 for an abstention.")
    radius: float = Field(ge=0, description="Its radius.")


class Recertified(AnswerModel):
    """The certificates of a job beside those of its base job, over the images that are finished."""

    base_job: str = Field(description="The base job's id.")
    images: int = Field(ge=0, description="Images with a certificate or an abstention in both.")
    carried: int = Field(ge=0, description="Those carried over from the base job's votes; the others are made anew.")
    votes: int = Field(ge=0, description="Votes cast by either model.")
    votes_from_scratch: int = Field(ge=0, description="Votes that the base job's certificates took.")
    certified_accuracy: list[CertifiedAccuracy] = Field(description="The base job's, at the same grid of radii.")
    compared: list[PairedAccuracy] = Field(description="At 0, sigma and 2 sigma; empty without true classes.")
    worse: list[WorseImage] = Field(
        description="Images answered by another class or with less than .9 of the radius; the largest loss first, at "
        "most 100."
    )
