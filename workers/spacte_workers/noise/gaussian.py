"""Plain float32 Gaussian noise, comparable with the published scripts, from the same keyed bits.

It is not exactly sound: x + eps in floating point leaks x through its low bits (Voracek & Hein 2023), which
    is why
`grid` is the default. Equal bits go in everywhere, but logarithm and cosine may differ in the last place
between kinds of device, so that a certificate with this noise replays exactly on the same kind only.

Shape suffixes: R rows (samples), P pixels (entries of the image in the order height, width, channel).
"""

import math

import torch
from torch import Tensor

from . import philox

_LANES = 4


class GaussianNoise:
    """Draws standard normals on one device by Box and Muller's transform.

    Args:
        pixels: entries of the image.
        device: where the noise is made.
    """

    def __init__(self, pixels: int, device: torch.device | str = "cpu") -> None:
        self.pixels = pixels
        self.blocks = -(-pixels // _LANES)
        self.block = torch.arange(self.blocks, device=device).unsqueeze(0)

    def draw(self, rows_R5: Tensor) -> Tensor:
        """Standard normals of the named rows, float32 [R, P], |value| < 6.8."""
        a, b, c, d = philox.words(rows_R5, self.block)
        normals: list[Tensor] = []
        for radius_word, angle_word in ((a, b), (c, d)):
            radius = (_uniform(radius_word).log() * -2).sqrt()
            angle = _uniform(angle_word) * (2 * math.pi)
            normals += [radius * angle.cos(), radius * angle.sin()]
        return torch.cat(normals, dim=1)[:, : self.pixels]


def _uniform(word: Tensor) -> Tensor:
    """A 32-bit word as float32 in (0, 1]; the half keeps zero out, where the logarithm has no value."""
    return (word.to(torch.float32) + 0.5) * 2.0**-32
