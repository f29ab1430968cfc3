"""Draws the demo's picture: every image with its answer and radius, and the certified-accuracy curve."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from matplotlib import pyplot as plt
from matplotlib.figure import FigureBase
from numpy.typing import NDArray

from spacte_client.rounding import rounded_down_text
from spacte_client.types import Certificate

CORRECT, WRONG, ABSTAINED = "#1a7f37", "#cf222e", "#6e7781"
COLUMNS = 10


def draw(
    images_CHW: Sequence[NDArray[np.uint8]],
    names: list[str],
    labels: list[int],
    certificates: list[Certificate],
    file: Path,
) -> None:
    """Write a PNG of uint8 images with their certificates, true classes `labels` and the names of all classes."""
    rows = -(-len(labels) // COLUMNS)
    figure = plt.figure(figsize=(11, 1.7 * rows + 3.6), dpi=130, layout="constrained")
    top, bottom = np.ravel(np.asarray(figure.subfigures(2, 1, height_ratios=[1.7 * rows, 3.4])))
    top.suptitle("Held-out images: answer and certified L2 radius", fontsize=12, fontweight="bold")
    axes = top.subplots(rows, COLUMNS, squeeze=False)
    for axis in axes.flat:
        axis.axis("off")
    for axis, image_CHW, label, c in zip(axes.flat, images_CHW, labels, certificates, strict=False):
        axis.imshow(image_CHW.transpose(1, 2, 0), cmap="gray", vmin=0, vmax=255, interpolation="nearest")
        if c.abstained:
            axis.set_title(f"abstained\n({names[label]})", fontsize=9, color=ABSTAINED)
            continue
        truth = "" if c.label == label else f" (is {names[label]})"
        title = f"{names[c.label]}{truth}\nr = {rounded_down_text(c.radius, 3)}"
        axis.set_title(title, fontsize=9, color=WRONG if truth else CORRECT)
    draw_curve(bottom, labels, certificates)
    figure.savefig(file)
    plt.close(figure)


def draw_curve(figure: FigureBase, labels: list[int], certificates: list[Certificate]) -> None:
    """Certified accuracy: the share of images that are answered correctly and certified at least that far."""
    radii = np.sort([c.radius for c, label in zip(certificates, labels, strict=True) if c.label == label])
    grid = np.linspace(0, max(1.0, float(radii.max(initial=0)) * 1.1), 400)
    share = [(radii >= r).sum() / len(labels) for r in grid]
    axis = figure.subplots()
    axis.step(grid, share, where="post", color="#0969da", linewidth=2)
    axis.fill_between(grid, share, step="post", color="#0969da", alpha=0.12)
    axis.set(xlabel="L2 radius", ylabel="certified accuracy", ylim=(0, 1.05), xlim=(0, grid[-1]))
    c = certificates[0]
    axis.set_title(f"{len(labels)} images, sigma = {c.sigma}, n = {c.n:,}, alpha = {c.alpha}", fontsize=10)
    axis.grid(alpha=0.25)
    axis.spines[["top", "right"]].set_visible(False)
