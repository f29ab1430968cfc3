"""How many noises it takes to decide whether a radius holds for real images of a trained network."""

import statistics
from pathlib import Path
from typing import Any

from spacte_workers.local import LocalCertifier

from .samples import CASES, stage_cost

_SEED = 0x5EED << 64  # chosen: any number, so that runs repeat


def bench_real(checkpoint: Path, *, images: int, alpha: float, n0: int, n_max: int) -> list[dict[str, Any]]:
    """Ask about held-out digits, the one data set that needs no files, at the targets of `CASES`.

    Args:
        checkpoint: folder of a network trained on them.
        images: how many digits, the first ones of the test set.
        alpha, n0, n_max: of the certificates.

    Returns:
        For each `target`, in units of sigma, how many `images` were asked about, the share whose radius was `shown`,
        and mean noises as in `bench_samples`; `stages` from the class probabilities that n_max votes give.

    Raises:
        ValueError: the network was trained on something else.
    """
    from spacte_core.checkpoint import read_config
    from spacte_core.data.digits import load_digits

    if read_config(checkpoint)[0].dataset != "digits":
        raise ValueError(f"{checkpoint} was not trained on the digits: pass a network that was.")
    certifier = LocalCertifier(checkpoint)
    pixels = load_digits("test")[0][:images]
    options = {"n0": n0, "n": n_max, "alpha": alpha, "bound": "clopper_pearson"}
    wholes = [certifier.certify(image, seed=f"{_SEED + i:032x}", **options) for i, image in enumerate(pixels)]
    likely = [max(whole.counts) / sum(whole.counts) for whole in wholes]
    rows: list[dict[str, Any]] = []
    for position, target in enumerate(sorted({target for target, _ in CASES}), 1):
        first, radius = _SEED + position * len(pixels), target * certifier.sigma
        answers = [
            certifier.certify(image, seed=f"{first + i:032x}", target_radius=radius, **options)
            for i, image in enumerate(pixels)
        ]
        rows.append(
            {
                "target": target,
                "images": len(pixels),
                "shown": sum(answer.stop_reason == "target" for answer in answers) / len(answers),
                "fixed": n0 + n_max,
                "stages": statistics.mean(stage_cost(target, p, alpha, n0) for p in likely),
                "ours": statistics.mean(n0 + sum(answer.counts) for answer in answers),
            }
        )
    return rows
