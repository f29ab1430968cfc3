"""Where `spacte import` takes models from: one file a library, each of which defines `load(name, options)`."""

from importlib import import_module

from spacte_core.checkpoint import CheckpointError

from .base import DIFFUSERS, HUB, Source, SourceOptions

__all__ = ["DIFFUSERS", "SOURCES", "Source", "SourceOptions", "is_source", "load_source", "shape_of"]

SOURCES = {
    "timm": "timm_models",
    "torchvision": "torchvision_models",
    "hf": "transformers_models",
    "python": "python_modules",
}
"""The prefix of a model's name, and the file that reads such models."""


def is_source(text: str) -> bool:
    """Whether a text names a library's model, such as `timm:resnet18`, and not a file."""
    return text.partition(":")[0] in SOURCES and ":" in text


def load_source(text: str, options: SourceOptions) -> Source:
    """A model of a library, in eval mode, with what the library says of it.

    Raises:
        CheckpointError: there is no such model, or its weights do not fit or cannot be fetched.
        MissingPackageError: the library is not installed.
    """
    library, _, name = text.partition(":")
    if library not in SOURCES or not name:
        raise CheckpointError(f"There is no source {text!r}: write {':NAME or '.join(SOURCES)}:NAME.")
    if options.weights == HUB and options.classes is not None:
        raise CheckpointError(
            "Published weights have classes of their own: leave --classes out, or name other --weights."
        )
    source = import_module(f"{__name__}.{SOURCES[library]}").load(name, options)
    source.module.eval()
    return source


def shape_of(text: str) -> tuple[int, int, int]:
    """(C, H, W) of a text such as `3,32,32`.

    Raises:
        CheckpointError: it is none.
    """
    parts = text.replace("x", ",").split(",")
    if len(parts) != 3 or not all(part.strip().isdecimal() and int(part) > 0 for part in parts):
        raise CheckpointError(f"{text!r} is no shape of images: write channels, height and width, such as 3,32,32.")
    channels, height, width = map(int, parts)
    return channels, height, width
