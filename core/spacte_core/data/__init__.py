"""Labelled image sets: one file a source, all behind `load_data`."""

from importlib import import_module

from spacte_core.errors import DataError

from .base import Batch, DataConfig, ImageData, Split

__all__ = ["Batch", "DataConfig", "DataError", "ImageData", "Split", "load_data"]

SOURCES = {
    "digits": "digits",
    "cifar10": "torchvision_sets",
    "cifar100": "torchvision_sets",
    "mnist": "torchvision_sets",
    "svhn": "torchvision_sets",
    "imagenet": "imagenet",
    "folder": "folder",
    "parquet": "parquet",
    "hf": "hub",
}
"""The file that reads each kind of source; each defines `load(config, split) -> ImageData`."""


def load_data(config: DataConfig, split: Split) -> ImageData:
    """One split of a data set; raises DataError, in one sentence, for anything wrong with it."""
    if config.kind not in SOURCES and ("/" in config.source or "." in config.source):
        raise DataError(f"There is no file {config.source!r}: check the path, or name a folder, folder:PATH say.")
    if config.kind not in SOURCES:
        raise DataError(f"There is no data source {config.source!r}: use one of {', '.join(SOURCES)}.")
    return import_module(f"spacte_core.data.{SOURCES[config.kind]}").load(config, split)
