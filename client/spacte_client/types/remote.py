"""The function behind an endpoint, as an answer names it."""

from typing import Literal

from pydantic import Field

from ._base import AnswerModel

__all__ = ["Remote"]


class Remote(AnswerModel):
    """Which model was asked over the network for each vote.

    The noises were drawn by the service, and the votes are the endpoint's. That it is one fixed function is trusted: a
    few rows were asked again and again, and no other look inside is possible.
    """

    url: str = Field(description="Where it was asked; it holds no credentials.")
    protocol: Literal["v2", "json"] = Field(description="Open Inference Protocol v2, or the small JSON form.")
    model_name: str | None = Field(default=None, description="What it calls itself.")
    model_version: str | None = Field(default=None, description="The version that it stated, in every answer alike.")
    output: Literal["logits", "label"] = Field(description="What it was asked for: scores, or a label.")
