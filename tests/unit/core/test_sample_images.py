"""Promises of the images that travel with a checkpoint: held out, to the pixel, the same every time."""

from pathlib import Path

import numpy as np
from PIL import Image

from spacte_core.data import load_data
from spacte_core.data.digits import load_digits
from spacte_core.sample_images import COUNT, FOLDER, write_samples
from spacte_trainer.config import DataConfig


def test_samples_are_the_images_that_their_names_say(tmp_path: Path):
    write_samples(tmp_path, load_data(DataConfig(source="digits"), "test"))
    images_NCHW, labels_N = load_digits("test")
    files = sorted((tmp_path / FOLDER).iterdir())
    assert len(files) == COUNT
    for file in files:
        index, label = map(int, file.stem.split("-"))
        assert label == labels_N[index]
        assert np.array_equal(np.asarray(Image.open(file)), images_NCHW[index, 0])


def test_samples_are_the_same_every_time_and_at_most_all(tmp_path: Path):
    data = load_data(DataConfig(source="digits"), "test")
    for place, count in (("a", 5), ("b", 5), ("all", 1000)):
        write_samples(tmp_path / place, data, count)
    names = {place: sorted(f.name for f in (tmp_path / place / FOLDER).iterdir()) for place in ("a", "b", "all")}
    assert names["a"] == names["b"]
    assert len(names["all"]) == len(data)
