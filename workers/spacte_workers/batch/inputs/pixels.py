"""From a row of an input to the model's pixels."""

from collections.abc import Sequence
from dataclasses import replace

from spacte_core.preprocessing import Asked, Preprocessing
from spacte_workers.images import decode_image, from_array
from spacte_workers.shards import Image

from .base import InputSpec, Row


def asked_for(spec: InputSpec, asked: Asked) -> Asked:
    """What is allowed for the pictures of an input: whoever names the layout of ImageNet names its transform."""
    return replace(asked, resize=asked.resize or spec.location.startswith("imagenet:"))


def row_pixels(
    row: Row, spec: InputSpec, *, input_shape: Sequence[int], stated: Preprocessing | None, asked: Asked | None = None
) -> Image:
    """The pixels of a row.

    Args:
        row, spec: the row, and the input that it is of.
        input_shape: (C, H, W) that the model takes.
        stated: how pictures became the model's input when it was trained.
        asked: what the caller allows beyond that.

    Raises:
        BadImageError: it does not give an image of that shape.
    """
    if isinstance(row.content, bytes):
        allowed = asked_for(spec, asked or Asked())
        return decode_image(row.content, input_shape=input_shape, stated=stated, asked=allowed)
    return from_array(row.content, input_shape=input_shape)
