"""What a published checkpoint says of its pictures: `preprocessor_config.json` of transformers, `config.json` of timm.

Only what becomes pixels is read. Mean and standard deviation lie inside the network, see `models.normalization`.
"""

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any, get_args

from PIL import Image

from .errors import UserError
from .preprocessing import Preprocessing, Resample


class TransformError(UserError):
    """A statement that the definition of `preprocessing` cannot express; the message names the remedy."""


def stated_transforms(folder: Path, size: tuple[int, int]) -> Preprocessing | None:
    """What the files beside a checkpoint state for a network whose input is `size` (height, width); None: nothing.

    Raises:
        TransformError: they are damaged, or state what is not done here.
    """
    for name, read in (("preprocessor_config.json", of_transformers), ("config.json", of_timm)):
        file = folder / name
        if not file.is_file():
            continue
        try:
            found = json.loads(file.read_bytes())
            stated = read(found, size) if isinstance(found, dict) else None
        except (ValueError, TypeError, KeyError, IndexError, AttributeError) as error:
            raise TransformError(f"{file} states no transform that is read here ({error}): move it away.") from error
        if stated is not None:
            return stated
    return None


def of_transformers(found: Mapping[str, Any], size: tuple[int, int]) -> Preprocessing | None:
    """`transformers`' image processors: do_resize, size, resample, do_center_crop, crop_size, crop_pct.

    Raises ValueError, TypeError or KeyError where it states what is not done here.
    """
    if not found.get("do_resize", True):
        return None
    edge = found["size"]
    resize: int | tuple[int, int]
    if isinstance(edge, int):
        resize = edge
    elif "shortest_edge" in edge:
        resize = int(edge["shortest_edge"])
    else:
        resize = int(edge["height"]), int(edge["width"])
    if isinstance(resize, int) and found.get("crop_pct"):
        resize = int(resize / found["crop_pct"])
    crops = found.get("do_center_crop", "crop_pct" in found)
    if isinstance(resize, int) and not crops:
        resize = (resize, resize)
    crop = found.get("crop_size", list(size)) if crops else resize
    if isinstance(crop, Mapping):
        crop = crop["height"], crop["width"]
    _check_crop((crop, crop) if isinstance(crop, int) else tuple(crop), size)
    return Preprocessing(resize=resize, resample=_filter(found.get("resample", "bilinear")), convert=("channels",))


def of_timm(found: Mapping[str, Any], size: tuple[int, int]) -> Preprocessing | None:
    """`timm`'s pretrained_cfg: input_size, interpolation, crop_pct, crop_mode; raises as `of_transformers`."""
    config = found.get("pretrained_cfg", found)
    if "crop_pct" not in config:
        return None
    _check_crop(tuple(config["input_size"][1:]), size)
    edge = math.floor(min(size) / config["crop_pct"])
    mode = config.get("crop_mode", "center")
    if mode not in ("center", "squash"):
        raise ValueError(f"crop_mode {mode}")
    resize: int | tuple[int, int] = edge if mode == "center" else (edge, edge)
    return Preprocessing(
        resize=resize, resample=_filter(config.get("interpolation", "bilinear")), convert=("channels",)
    )


def _check_crop(crop: tuple[int, ...], size: tuple[int, int]) -> None:
    if crop != size:
        raise ValueError(f"a crop to {crop} for an input of {size}")


def _filter(name: str | int) -> Resample:
    known: dict[str, Resample] = {one: one for one in get_args(Resample)}
    return known[Image.Resampling(name).name.lower() if isinstance(name, int) else name]
