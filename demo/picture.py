"""Draws the demo's picture: every image with its answer and radius, and the certified-accuracy curve."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from matplotlib import pyplot as plt
from matplotlib.figure import FigureBase
from numpy.typing import NDArray

from spacte_client.rounding import round_down
from spacte_client.types import Certificate

RIGHT, WRONG, ABSTAINED = "#1a7f37", "#cf222e", "#6e7781"


def draw(
    images_CHW: Sequence[NDArray[np.uint8]],
    names: list[str],
    labels: list[int],
    certificates: list[Certificate],
    file: Path,
) -> None:
    """Write a PNG.

    Args:
        images_CHW: the images, uint8.
        names: what to call each class.
        labels: the true class of each image.
        certificates: the answer to each image.
        file: where to write.
    """
    columns = 10
    rows = -(-len(labels) // columns)
    figure = plt.figure(figsize=(11, 1.7 * rows + 3.6), dpi=130, layout="constrained")
    top, bottom = np.ravel(np.asarray(figure.subfigures(2, 1, height_ratios=[1.7 * rows, 3.4])))
    top.suptitle("Held-out images: answer and certified L2 radius", fontsize=12, fontweight="bold")
    axes = top.subplots(rows, columns, squeeze=False)
    for axis in axes.flat:
        axis.axis("off")
    for axis, image_CHW, label, certificate in zip(axes.flat, images_CHW, labels, certificates, strict=False):
        axis.imshow(image_CHW.transpose(1, 2, 0), cmap="gray", vmin=0, vmax=255, interpolation="nearest")
        if certificate.abstained:
            axis.set_title(f"abstained\n({names[label]})", fontsize=9, color=ABSTAINED)
        else:
            right = certificate.label == label
            told = names[certificate.label] if right else f"{names[certificate.label]} (is {names[label]})"
            axis.set_title(
                f"{told}\nr = {round_down(certificate.radius, 3):.3f}", fontsize=9, color=RIGHT if right else WRONG
            )
    curve(bottom, labels, certificates)
    figure.savefig(file)
    plt.close(figure)


def curve(figure: FigureBase, labels: list[int], certificates: list[Certificate]) -> None:
    """Certified accuracy: the share of images that are answered rightly and certified at least that far."""
    radii = np.sort([c.radius for c, y in zip(certificates, labels, strict=True) if c.label == y])
    grid = np.linspace(0, max(1.0, float(radii.max(initial=0)) * 1.1), 400)
    share = [(radii >= r).sum() / len(labels) for r in grid]
    axis = figure.subplots()
    axis.step(grid, share, where="post", color="#0969da", linewidth=2)
    axis.fill_between(grid, share, step="post", color="#0969da", alpha=0.12)
    axis.set(xlabel="L2 radius", ylabel="certified accuracy", ylim=(0, 1.05), xlim=(0, grid[-1]))
    c = certificates[0]
    axis.set_title(f"{len(labels)} images, sigma = {c.sigma}, n = {c.n:,}, alpha = {c.alpha}", fontsize=10)
    axis.grid(alpha=0.25)
    for side in ("top", "right"):
        axis.spines[side].set_visible(False)
