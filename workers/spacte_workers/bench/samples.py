"""How many noises it takes to decide whether a radius holds: fixed n, published stages, and ours.

The classifier is simulated by its class probabilities, which is all that the statistics see of one.
"""

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.special import ndtr
from scipy.stats import binom

from spacte_workers.statistics.stopping import FUTILITY_LEVEL, Plan, Rules

CASES = ((1.0, 0.0), (1.0, 1.2), (1.0, 1.05), (2.0, 1.8), (2.0, 2.2), (3.0, 3.5), (3.0, math.inf))
"""Pairs of target radius and true radius, in units of sigma. Chosen: clear, close and hopeless cases."""

STAGES = (1_000, 10_000, 125_000)
"""Estimation noises of the stages of Horvath et al. 2022, each drawn anew after n0 selection noises."""


@dataclass(frozen=True, slots=True)
class Stops:
    """Where simulated certifications stopped: arrays over runs.

    Attributes:
        look, n: index of the look, and the estimation votes counted there.
        code: as in `statistics.stopping.STOP_CODES`.
        radius: certified radius, not rounded; 0 where nothing is certified.
    """

    look: NDArray[np.int64]
    n: NDArray[np.int64]
    code: NDArray[np.int8]
    radius: NDArray[np.float64]


def simulate(
    plan: Plan,
    probabilities: list[float],
    runs: int,
    rng: np.random.Generator,
    *,
    cut_after: NDArray[np.int64] | None = None,
) -> Stops:
    """Run many certifications of one classifier at once.

    Args:
        plan, rng: the looks and the stopping rules, and where the votes come from.
        probabilities: of the classes, the chosen one first.
        runs: how many.
        cut_after: for each run, the index of the look at which its time is up, whatever the votes; default never.
    """
    counts = np.zeros((runs, len(probabilities)), np.int64)
    look, code = np.full(runs, -1), np.zeros(runs, np.int8)
    active, drawn = np.arange(runs), 0
    for k, n in enumerate(plan.looks):
        counts[active] += rng.multinomial(n - drawn, probabilities, size=len(active))
        drawn, final = n, k == len(plan.looks) - 1
        # Many runs have the same votes, above all at the early looks.
        states, which = np.unique(_state(counts[active]), axis=0, return_inverse=True)
        codes = plan.stop_codes(n, states[:, 0], states[:, 1], final=final)[which.reshape(-1)]
        stopped = codes != 0
        if cut_after is not None:
            stopped |= cut_after[active] <= k
        look[active[stopped]], code[active[stopped]] = k, codes[stopped]
        active = active[~stopped]
        if len(active) == 0:
            break
    n, state = np.asarray(plan.looks)[look], _state(counts)
    radius = np.zeros(runs)
    for final in (False, True):
        at = (look == len(plan.looks) - 1) == final
        if at.any():
            proven = plan.prove(n[at], state[at, 0], state[at, 1], final=final)
            radius[at] = np.where(proven.certified, proven.radius, 0.0)
    return Stops(look, n, code, radius)


def bench_samples(*, alpha: float, n0: int, n_max: int, runs: int, seed: int) -> list[dict[str, float | None]]:
    """The mean noises that each of `CASES` takes, selection included.

    Args:
        alpha, n0, n_max: of the certificates.
        runs: simulated certifications a case.
        seed: of the simulation.

    Returns:
        For each case `target` and `true_radius` in units of sigma (None where all votes agree), and the noises of
        `fixed` n, of the `stages` of Horvath et al. 2022 (computed) and of `ours` (simulated, with `standard_error`).
    """
    rng = np.random.default_rng(seed)
    rows: list[dict[str, float | None]] = []
    for target, true in CASES:
        p = float(ndtr(true))
        plan = Plan(Rules(1.0, n_max, alpha, "clopper_pearson", 2, target_radius=target))
        samples = n0 + simulate(plan, [p, 1.0 - p], runs, rng).n
        rows.append(
            {
                "target": target,
                "true_radius": true if math.isfinite(true) else None,
                "fixed": n0 + n_max,
                "stages": stage_cost(target, p, alpha, n0),
                "ours": float(np.mean(samples)),
                "standard_error": float(np.std(samples) / math.sqrt(runs)),
            }
        )
    return rows


def stage_cost(target: float, p: float, alpha: float, n0: int) -> float:
    """Mean noises of the published stages: an exact sum, no simulation.

    Each stage draws anew, and stops where its Clopper-Pearson bound at alpha / 3 shows the target or the upper one
    rules it out; the two stages after which one can give up share the failure probability of that.

    Args:
        target: radius asked about, in units of sigma.
        p: probability of the class.
        alpha, n0: of the certificate, and of each stage.
    """
    needed, cost, reached = float(ndtr(target)), 0.0, 1.0
    for n in STAGES:
        cost += reached * (n0 + n)
        # By the duality of bounds and tests: shown where P(Bin(n, needed) >= s) <= alpha / 3, ruled out where
        # P(Bin(n, needed) <= s) falls below its level.
        shown = binom.isf(alpha / len(STAGES), n, needed) + 1
        ruled_out = binom.ppf(FUTILITY_LEVEL / (len(STAGES) - 1), n, needed) - 1
        reached *= float(binom.cdf(shown - 1, n, p) - binom.cdf(ruled_out, n, p))
    return cost


def _state(counts: NDArray[np.int64]) -> NDArray[np.int64]:
    """Votes of the chosen class and the most of any other, [runs, 2]."""
    return np.stack((counts[:, 0], counts[:, 1:].max(axis=1)), axis=1)
