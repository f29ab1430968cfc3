"""Promise: what a published checkpoint says of its pictures is done, or refused in one sentence."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from tests.odd_pictures import colour, saved
from torchvision import transforms

from spacte_core.preprocessing import Asked, Preprocessing, preprocess
from spacte_core.stated_transforms import TransformError, stated_transforms

SIZE = (16, 16)
COLOURS = ("channels",)

STATED: list[tuple[str, dict[str, Any], Preprocessing | None]] = [
    (
        "preprocessor_config.json",
        {"size": {"shortest_edge": 20}, "crop_size": {"height": 16, "width": 16}, "do_center_crop": 1, "resample": 3},
        Preprocessing(resize=20, resample="bicubic", convert=COLOURS),
    ),
    (
        "preprocessor_config.json",
        {"size": {"height": 16, "width": 16}, "resample": 2},
        Preprocessing(resize=(16, 16), convert=COLOURS),
    ),
    ("preprocessor_config.json", {"size": 16}, Preprocessing(resize=(16, 16), convert=COLOURS)),
    ("preprocessor_config.json", {"size": {"shortest_edge": 16}, "crop_pct": 0.875},
     Preprocessing(resize=18, convert=COLOURS)),
    ("preprocessor_config.json", {"do_resize": False, "size": 16}, None),
    (
        "config.json",
        {"pretrained_cfg": {"input_size": [3, 16, 16], "crop_pct": 0.875, "interpolation": "bicubic"}},
        Preprocessing(resize=18, resample="bicubic", convert=COLOURS),
    ),
    ("config.json", {"input_size": [3, 16, 16], "crop_pct": 1.0, "crop_mode": "squash"},
     Preprocessing(resize=(16, 16), convert=COLOURS)),
    ("config.json", {"schema_version": 1}, None),
]  # fmt: skip


@pytest.mark.parametrize(("name", "content", "expected"), STATED)
def test_what_is_stated(tmp_path: Path, name: str, content: dict[str, Any], expected: Preprocessing | None) -> None:
    (tmp_path / name).write_text(json.dumps(content))
    assert stated_transforms(tmp_path, SIZE) == expected


@pytest.mark.parametrize(
    "content",
    [{"size": 16, "do_center_crop": True, "crop_size": 8}, {"size": {"longest_edge": 16}}, {"size": 16, "resample": 9}],
)
def test_what_is_not_done_here(tmp_path: Path, content: dict[str, Any]) -> None:
    (tmp_path / "preprocessor_config.json").write_text(json.dumps(content))
    with pytest.raises(TransformError, match="states no transform that is read here"):
        stated_transforms(tmp_path, SIZE)


@pytest.mark.parametrize("size", [(20, 31), (31, 20), (33, 47), (16, 16), (40, 17)])
@pytest.mark.parametrize("edge", [16, 18, 20])
def test_resize_and_crop_are_those_of_torchvision(size: tuple[int, int], edge: int) -> None:
    picture = colour(*size)
    theirs = transforms.Compose([transforms.Resize(edge), transforms.CenterCrop(SIZE)])(picture)
    asked = Asked(resize=True, enlarge=True)
    ours, _ = preprocess(saved(picture), Preprocessing(resize=edge), asked, channels=3, size=SIZE)
    assert np.array_equal(ours, np.asarray(theirs).transpose(2, 0, 1))
    assert isinstance(theirs, Image.Image)
