"""Image classifiers of Hugging Face's transformers: a folder that `save_pretrained` wrote, or a name on the hub."""

from pathlib import Path
from typing import Any

import torch

from spacte_core.checkpoint import CheckpointError
from spacte_core.errors import optional_package
from spacte_core.models import Normalization
from spacte_core.models.adapters import LogitsOf
from spacte_core.stated_transforms import of_transformers

from .base import HUB, Source, SourceOptions, normalization_of, not_fetched, stated

_RESCALED = 1 / 255  # by which an image processor brings 8-bit pixels to [0, 1]


def load(name: str, options: SourceOptions) -> Source:
    """The classifier in a folder or on the hub; no code that comes with it is run. See `load_source`.

    Its image processor says sizes, mean and sd, and its configuration the classes' names.
    """
    transformers: Any = optional_package("transformers", "transformers")
    if options.weights != HUB:
        raise CheckpointError("A model of transformers brings its weights: leave --weights out, and name its folder.")
    here = Path(name).is_dir()
    try:
        module = transformers.AutoModelForImageClassification.from_pretrained(
            name, local_files_only=here, trust_remote_code=False, dtype=torch.float32
        )
    except Exception as error:  # the library's, the hub's and the file's
        if not here:
            raise not_fetched(f"hf:{name}", error) from error
        first = str(error).strip().partition("\n")[0][:200].rstrip(". ")
        raise CheckpointError(f"{name} is no image classifier of transformers ({first}): name one.") from error
    processor = _processor(name, here)
    config = module.config
    size = options.size or _size(processor, config)
    count = len(config.id2label)
    names = tuple(str(config.id2label[k]) for k in range(count)) if set(config.id2label) == set(range(count)) else None
    channels = getattr(config, "num_channels", 3)
    pictures = None if options.size or "size" not in processor else stated(of_transformers, processor, size)
    shape = (channels, size, size)
    return Source(LogitsOf(module), shape, _normalization(name, processor, channels), names, pictures)


def _processor(name: str, here: bool) -> dict[str, Any]:
    """The settings of the model's image processor; empty where it has none."""
    base: Any = optional_package("transformers.image_processing_base", "transformers")
    try:
        return base.ImageProcessingMixin.get_image_processor_dict(name, local_files_only=here)[0]
    except (OSError, ValueError):
        return {}


def _size(processor: dict[str, Any], config: Any) -> int:
    """Height and width of the images that go into the model.

    Raises:
        CheckpointError: nobody says.
    """
    for said in (processor.get("crop_size") if processor.get("do_center_crop") else None, processor.get("size")):
        found = said if isinstance(said, dict) else {"height": said}
        number = found.get("height") or found.get("shortest_edge")
        if isinstance(number, int):
            return number
    number = getattr(config, "image_size", None)
    if not isinstance(number, int):
        raise CheckpointError("Neither the model nor its image processor says what size it takes: give --size.")
    return number


def _normalization(name: str, processor: dict[str, Any], channels: int) -> Normalization:
    """Mean and sd of pixels in [0, 1]; none where the processor takes none off.

    Raises:
        CheckpointError: the processor shifts pixels in a way of its own.
    """
    if processor.get("offset"):
        raise CheckpointError(f"The image processor of {name} shifts pixels by an offset: use save_model.")
    # From 8-bit pixels the processor computes (factor * pixel - mean) / sd.
    factor = float(processor.get("rescale_factor", _RESCALED)) if processor.get("do_rescale", True) else 1.0
    scale = factor / _RESCALED
    normalized = bool(processor.get("do_normalize", "image_mean" in processor))
    mean, sd = (
        _per_channel(processor.get(key, usual) if normalized else usual, channels)
        for key, usual in (("image_mean", 0.0), ("image_std", 1.0))
    )
    if scale == 1 and set(mean) == {0.0} and set(sd) == {1.0}:
        return Normalization()
    return normalization_of([m / scale for m in mean], [s / scale for s in sd])


def _per_channel(said: Any, channels: int) -> list[float]:
    return list(said) if isinstance(said, list) else [float(said)] * channels
