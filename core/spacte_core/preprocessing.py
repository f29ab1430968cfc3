"""From a picture file to a network's input: the one definition that training and certification share.

A radius is in units of the pixels that the network gets. So nothing is done to a picture that neither its checkpoint
states nor the caller names, and every step that was taken stands in the certificate. No torch.
"""

from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from pydantic import BaseModel, ConfigDict, Field

from .pictures import MAX_PIXELS, Picture, PictureError, read_picture

Conversion = Literal["channels", "orientation", "depth", "transparency"]
"""What is changed in a picture only by name: grey to RGB, RGB to grey and CMYK to either; the turn that EXIF asks for;
16 bits to their upper 8; transparent pixels, which are laid on white."""

Resample = Literal["nearest", "box", "bilinear", "hamming", "bicubic", "lanczos"]

BACKGROUND = "white"
_GREY, _COLOUR = ("L", "LA", "La"), ("RGB", "RGBA", "RGBX", "RGBa", "P", "PA")
_NAMES = {1: "grey", 3: "rgb"}
_TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
"""What undoes each EXIF orientation (EXIF 2.32, 4.6.4)."""


class Preprocessing(BaseModel):
    """How pictures become the input of one network, as they did when it was trained."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    resize: int | tuple[int, int] | None = Field(
        default=None,
        description="Pixels of the shorter edge, or (height, width), before the centre is cropped to the input; "
        "null: the smallest size that covers the input.",
    )
    resample: Resample = Field(default="bilinear", description="Pillow's filter of that name.")
    convert: tuple[Conversion, ...] = Field(default=(), description="What was converted in every picture.")


IMAGENET = Preprocessing(resize=256, convert=("channels", "orientation"))
"""Of networks trained on ImageNet: METHODS section 2, with the crop to their input of 224."""


@dataclass(frozen=True, slots=True)
class Asked:
    """What a caller allows by name.

    Attributes:
        resize: scale and crop to the input as the network's `Preprocessing` says.
        enlarge: also where that makes a picture larger.
        convert: conversions beside those that the network's pictures all went through.
    """

    resize: bool = False
    enlarge: bool = False
    convert: tuple[Conversion, ...] = ()


EVERYTHING = Asked(resize=True, enlarge=True, convert=("channels", "orientation", "depth", "transparency"))
"""For pictures that are only looked at."""


@dataclass(frozen=True, slots=True)
class Steps:
    """What was done to a picture.

    Attributes:
        source_size: (height, width) in the file.
        orientation: the EXIF orientation that was undone, 2 to 8.
        channels: such as `grey_to_rgb`.
        bits: of a sample in the file, where only the upper 8 were taken.
        background: what transparent pixels were laid on.
        resize: (height, width) that it was scaled to.
        crop: (top, left, height, width) that was cut out of that.
        resample: the filter of the scaling.
    """

    source_size: tuple[int, int]
    orientation: int | None = None
    channels: str | None = None
    bits: int | None = None
    background: str | None = None
    resize: tuple[int, int] | None = None
    crop: tuple[int, int, int, int] | None = None
    resample: Resample | None = None

    @property
    def none(self) -> bool:
        """Whether the pixels are those of the file."""
        return self == Steps(self.source_size)


def preprocess(
    data: bytes,
    stated: Preprocessing,
    asked: Asked,
    *,
    channels: int | None = None,
    size: tuple[int, int] | None = None,
    max_pixels: int | None = None,
) -> tuple[NDArray[np.uint8], Steps | None]:
    """The pixels [C, H, W] of a picture file, and what was done to it; None where they are the file's own.

    Args:
        data: of a PNG, JPEG, WebP, BMP or PPM file.
        stated: what the network was trained with.
        asked: what the caller allows.
        channels: of the network, 1 or 3; None takes the picture's.
        size: (height, width) of the network's input; None takes the picture's.
        max_pixels: the largest height times width that is decoded at all.

    Raises:
        PictureError: the picture cannot be read, or would have to be changed in a way that nobody named.
    """
    picture = read_picture(data, max_pixels)
    names = frozenset((*stated.convert, *asked.convert))
    source_size = picture.image.height, picture.image.width
    image, bits = _eight_bits(picture, names)
    image, background = _opaque(image, picture, names)
    image, orientation = _upright(image, picture, names)
    image, converted = _with_channels(image, channels, names, size)
    steps = Steps(source_size, orientation, converted, bits, background)
    if size is not None and (asked.resize or image.size != (size[1], size[0])):
        image, steps = _resized(image, steps, stated, asked, size, channels, max_pixels or MAX_PIXELS)
    pixels = np.asarray(image)
    pixels_CHW = pixels[np.newaxis] if pixels.ndim == 2 else np.ascontiguousarray(pixels.transpose(2, 0, 1))
    return pixels_CHW, None if steps.none else steps


def _eight_bits(picture: Picture, names: Iterable[str]) -> tuple[Image.Image, int | None]:
    image = picture.image
    if picture.bits == 8 and image.mode not in ("I", "F"):
        return image, None
    if picture.bits != 16 or image.mode == "F":
        raise PictureError(f"The image has mode {image.mode}: send 8-bit grey or RGB.")
    if "depth" not in names:
        raise PictureError("The image has 16 bits a sample: ask to convert `depth`, or send 8-bit grey or RGB.")
    if image.mode.startswith("I"):
        image = Image.fromarray((np.asarray(image).astype(np.int64) >> 8).astype(np.uint8))
    return image, picture.bits


def _opaque(image: Image.Image, picture: Picture, names: Iterable[str]) -> tuple[Image.Image, str | None]:
    if not picture.transparent:
        return image, None
    if "transparency" not in names:
        raise PictureError(
            "The image has transparent pixels: flatten it onto a background first, or ask to convert `transparency`."
        )
    if picture.bits != 8 and "A" not in image.getbands():
        raise PictureError("The image has 16 bits and a transparent colour: flatten it onto a background first.")
    grey = image.mode in ("1", *_GREY)
    layer = image.convert("RGBA")
    flat = Image.alpha_composite(Image.new("RGBA", image.size, BACKGROUND), layer).convert("L" if grey else "RGB")
    return flat, BACKGROUND


def _upright(image: Image.Image, picture: Picture, names: Iterable[str]) -> tuple[Image.Image, int | None]:
    if picture.orientation == 1:
        return image, None
    if "orientation" not in names:
        raise PictureError(
            f"The image is to be turned before it is shown (EXIF orientation {picture.orientation}): ask to convert "
            "`orientation`, or save it upright."
        )
    return _plain(image).transpose(_TURNS[picture.orientation]), picture.orientation


def _plain(image: Image.Image) -> Image.Image:
    """Grey, RGB or another colour space, all 8 bits: palettes are looked up, opaque alpha is dropped."""
    if image.mode in ("1", *_GREY):
        return image.convert("L")
    if image.mode in _COLOUR:  # a palette may have opacities, which a direct conversion warns of
        return (image.convert("RGBA") if image.mode in ("P", "PA") else image).convert("RGB")
    if image.mode in ("CMYK", "YCbCr"):
        return image
    raise PictureError(f"The image has mode {image.mode}: send 8-bit grey or RGB.")


def _with_channels(
    image: Image.Image, channels: int | None, names: Iterable[str], size: tuple[int, int] | None
) -> tuple[Image.Image, str | None]:
    image = _plain(image)
    here = {"L": 1, "RGB": 3}.get(image.mode)
    wanted = channels or here or 3
    if here == wanted:
        return image, None
    kind = {"L": "grey", "RGB": "RGB"}.get(image.mode, image.mode)
    if wanted not in _NAMES or "channels" not in names:
        height, width = size or (image.height, image.width)
        raise PictureError(
            f"The image is {kind} of shape {[len(image.getbands()), image.height, image.width]}, but the model expects "
            f"{[wanted, height, width]}: ask to convert `channels`, or send it converted."
        )
    return image.convert("L" if wanted == 1 else "RGB"), f"{kind.lower()}_to_{_NAMES[wanted]}"


def _resized(
    image: Image.Image,
    steps: Steps,
    stated: Preprocessing,
    asked: Asked,
    size: tuple[int, int],
    channels: int | None,
    max_pixels: int,
) -> tuple[Image.Image, Steps]:
    height, width = size
    if not asked.resize:
        bands = len(image.getbands())
        raise PictureError(
            f"The image has shape {[bands, image.height, image.width]}, but the model expects "
            f"{[channels or bands, height, width]}: scale it, or ask for `resize` (of a command: --resize)."
        )
    scaled = _scaled_size((image.height, image.width), stated.resize, size)
    if (scaled[0] > image.height or scaled[1] > image.width) and not asked.enlarge:
        raise PictureError(
            f"The image has {image.height} x {image.width} pixels and would be enlarged to {scaled[0]} x {scaled[1]}, "
            "so that a radius would overstate the file's: ask for `enlarge`, or send a larger image."
        )
    if scaled[0] * scaled[1] > max(max_pixels, image.height * image.width):
        raise PictureError(
            f"The image has {image.height} x {image.width} pixels and would be scaled to {scaled[0]} x {scaled[1]} "
            "before its centre is taken: crop it to a shape nearer the input's."
        )
    scaled_image = image
    if scaled != (image.height, image.width):
        scaled_image = image.resize((scaled[1], scaled[0]), Image.Resampling[stated.resample.upper()])
    # The centre as torchvision's CenterCrop has it: halves to the even side.
    top, left = round((scaled[0] - height) / 2), round((scaled[1] - width) / 2)
    if scaled != size:
        steps = replace(steps, crop=(top, left, height, width))
    if scaled_image is not image:
        steps = replace(steps, resize=scaled, resample=stated.resample)
    return scaled_image.crop((left, top, left + width, top + height)), steps


def _scaled_size(
    source: tuple[int, int], resize: int | tuple[int, int] | None, size: tuple[int, int]
) -> tuple[int, int]:
    """(height, width) after scaling, which covers `size`; the longer edge is rounded down, as torchvision does."""
    height, width = source
    if isinstance(resize, tuple):
        scaled = resize
    else:
        edge = resize or max(size[0] * min(source) / height, size[1] * min(source) / width)
        scaled = (int(edge * height / min(source)), int(edge * width / min(source)))
    return max(scaled[0], size[0]), max(scaled[1], size[1])
