"""How many noises it takes to decide whether a radius holds for real images of a trained network."""

import statistics
from dataclasses import dataclass
from pathlib import Path

from spacte_workers.local import LocalCertifier

from .samples import stage_cost

_SEED = 0x5EED << 64  # chosen: any number, so that runs repeat


@dataclass(frozen=True, slots=True)
class RealCost:
    """Mean noises an image to decide one target, selection included.

    Attributes:
        target: radius asked about, in units of sigma.
        images: how many were asked about.
        shown: share of them whose radius was shown.
        fixed: n0 + n_max.
        stages: of Horvath et al. 2022, computed from the class probability that n_max votes give.
        ours: drawn.
    """

    target: float
    images: int
    shown: float
    fixed: int
    stages: float
    ours: float


def bench_real(
    checkpoint: Path, *, targets: tuple[float, ...], images: int, alpha: float, n0: int, n_max: int
) -> list[RealCost]:
    """Ask about held-out digits, the one data set that needs no files.

    Args:
        checkpoint: folder of a network trained on them.
        targets: radii in units of sigma.
        images: how many digits, the first ones of the test set.
        alpha: probability of a false certificate.
        n0: selection noises.
        n_max: the most estimation noises.

    Raises:
        ValueError: the network was trained on something else.
    """
    from spacte_core.checkpoint import read_config
    from spacte_core.data.digits import load_digits

    if read_config(checkpoint)[0].dataset != "digits":
        raise ValueError(f"{checkpoint} was not trained on the digits: pass a network that was.")
    certifier = LocalCertifier(checkpoint)
    pixels = load_digits("test")[0][:images]
    options = {"n0": n0, "n": n_max, "alpha": alpha}
    likely: list[float] = []
    for i, image in enumerate(pixels):
        whole = certifier.certify(image, seed=f"{_SEED + i:032x}", **options)
        likely.append(max(whole.counts) / sum(whole.counts))
    costs: list[RealCost] = []
    for position, target in enumerate(targets, 1):
        drawn: list[int] = []
        shown = 0
        for i, image in enumerate(pixels):
            seed = f"{_SEED + position * len(pixels) + i:032x}"
            answer = certifier.certify(image, seed=seed, target_radius=target * certifier.sigma, **options)
            drawn.append(n0 + sum(answer.counts))
            shown += answer.stop_reason == "target"
        stages = statistics.mean(stage_cost(target, p, alpha, n0) for p in likely)
        costs.append(RealCost(target, len(pixels), shown / len(pixels), n0 + n_max, stages, statistics.mean(drawn)))
    return costs
