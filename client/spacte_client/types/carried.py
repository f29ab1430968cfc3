"""What carries a certificate from the function that cast its votes over to the one that it is about."""

from typing import Literal

from pydantic import Field

from ._base import AnswerModel

__all__ = ["Carried", "Precision"]

Precision = Literal["fp32", "bf16", "int8"]


class Carried(AnswerModel):
    """Which function cast the votes of a certificate, and how seldom it and the certificate's own differ.

    Both voted on the same noises. Half of the certificate's alpha is for `counts`, the other half for `differences`.
    """

    model: str = Field(description="The model that cast `counts` and `selection_counts`.")
    model_version: str = Field(description="SHA-256 over its checkpoint.")
    precision: Precision = Field(description="Arithmetic of its votes.")
    kernels: str | None = Field(description="What computed its votes; null where its certificate names none.")
    pairs: int = Field(ge=1, description="Noises on which both voted; other ones than those of `counts`.")
    differences: int = Field(
        ge=0, description="Those on which it voted for the class, and the certificate's own function did not."
    )
    seed: str = Field(description="Seed of these noises, 32 hex digits.")
    certificate: str | None = Field(
        default=None, description="Id of the certificate that `counts` are from; null where it is this one."
    )
