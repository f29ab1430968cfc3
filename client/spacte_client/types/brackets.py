"""The certified radius from below and from above: `POST /v1/brackets`."""

from typing import Self

from pydantic import Field, model_validator

from ._base import AnswerModel
from .certificates import MAX_SAMPLES, Certificate, CertifyParams, ImageSource

__all__ = ["AdversarialImage", "Bracket", "BracketParams", "BracketRequest", "Bracketed", "NarrowBrackets"]


class BracketParams(CertifyParams):
    """Options of a bracket: those of the certificate, and of the attack."""

    alpha_upper: float = Field(
        default=0.001, gt=0, lt=1, description="Probability that the upper bound is false, over the noise."
    )
    n_upper: int = Field(
        default=10_000, ge=100, le=MAX_SAMPLES, description="The most noises to draw for each test of an attack."
    )

    @model_validator(mode="after")
    def _of_what_votes(self) -> Self:
        if self.certify is not None:
            raise ValueError("an attack asks what votes, and `certify` is about another function: leave it out")
        return self


class BracketRequest(BracketParams):
    """Body of `POST /v1/brackets`."""

    image: ImageSource = Field(description="What to classify.")


class AdversarialImage(AnswerModel):
    """An image near the one sent that the smoothed classifier answers otherwise."""

    label: int = Field(description="Its answer there.")
    label_name: str = Field(description="The class's name.")
    data: str = Field(description="The image in base64: a PNG file, or npy where it is between 8-bit steps.")
    counts: list[int] = Field(description="Votes per class.")
    n: int = Field(description="Noises drawn.")
    p_value: float = Field(description="Of the two-sided binomial test between the two most frequent classes.")


class NarrowBrackets(AnswerModel):
    """How many images have a bracket that is narrower than `width`."""

    width: float = Field(gt=0, description="In units of [0, 1] pixels, L2.")
    share: float = Field(
        ge=0, le=1, description="Of the images with a certificate above 0; those without an upper bound are not narrow."
    )


class Bracketed(AnswerModel):
    """What attacks found on the images of a job, all of them together."""

    images: int = Field(ge=0, description="Images that were attacked: those with a certified radius above 0.")
    bounded: int = Field(ge=0, description="Those where another answer was found, so that there is an upper bound.")
    median_ratio: float | None = Field(
        description="Of upper bound over certified radius, the median over images with both; null where there is none."
    )
    narrower: list[NarrowBrackets] = Field(description="At multiples of .05.")
    attack_noises: int = Field(ge=0, description="Noises drawn by the attacks.")
    alpha_upper: float = Field(description="Probability that an upper bound is false, each by itself.")

    @property
    def sentence(self) -> str:
        """The same for people, without the widths."""
        ratio = (
            "" if self.median_ratio is None else f", {self.median_ratio:.2f} times the certified radius in the median"
        )
        return f"{self.images:,} images attacked, {self.bounded:,} with an upper bound{ratio}."


class Bracket(AnswerModel):
    """Between what radii the smoothed classifier's answer can first change."""

    id: str = Field(description="Of this answer, unique.")
    lower: float = Field(description="Certified radius: no change closer than this, at level `alpha_lower`.")
    upper: float | None = Field(
        description="Distance of an image with another answer, at level `alpha_upper`; null where none was found."
    )
    alpha_lower: float = Field(description="Probability that `lower` is false, over the noise.")
    alpha_upper: float = Field(description="Probability that `upper` is false, over the noise.")
    certificate: Certificate = Field(description="What `lower` rests on.")
    adversarial: AdversarialImage | None = Field(description="What `upper` rests on.")
    attack_noises: int = Field(
        default=0, ge=0, description="Noises drawn by the attack: for gradients, votes on the way, and tests."
    )
    elapsed_ms: float = Field(description="From the request's arrival to its answer.")
