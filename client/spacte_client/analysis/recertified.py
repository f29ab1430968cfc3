"""Certificates of a run at another failure probability, or with fewer noises, from the votes that it stored."""

import random
from dataclasses import replace
from statistics import NormalDist

from spacte_client.rounding import round_down

from .accuracy import Row, Run, Votes
from .binomial import lower_bound
from .logs import LogError


def recertified(run: Run, *, alpha: float | None = None, n: int | None = None) -> Run:
    """The run as if its images had been certified at `alpha`, with `n` of its noises, by the bound of Clopper-Pearson.

        R = sigma Phi^-1(p), p the one-sided lower bound of Cohen et al. 2019, section 3.2.2; below 1/2: abstention.

    Which of the votes fewer noises had is drawn (hypergeometric, seeded by image and number): any n of noises that
    were drawn alike are noises drawn alike.

    Args:
        run: of NDJSON records, which hold votes.
        alpha: probability of a wrong answer, in (0, 1/2); None: each record's own.
        n: estimation noises, from 1 to the number drawn; None: all.

    Raises:
        LogError: a row has no votes, too few, those of another function than the one it is about, or a stopping rule,
            after which its votes are not binomial.
    """
    return Run(run.name, tuple(_again(run, row, alpha, n) for row in run.rows), run.errored)


def _again(run: Run, row: Row, alpha: float | None, n: int | None) -> Row:
    votes = row.votes
    where = f"Image {row.index} of {run.name}"
    if votes is None:
        raise LogError(f"{where} has no votes to bound again; pass the NDJSON records of a job.")
    if votes.incorrect:
        return row  # wrong at every alpha and n
    if votes.stops_early:
        raise LogError(f"{where} was certified under a stopping rule, which holds for its own alpha and n alone.")
    if votes.carried:
        raise LogError(
            f"{where} was carried over from another function's votes, which do not bound its own: leave out --alpha "
            "and --n, or certify it anew."
        )
    n = votes.n if n is None else n
    if n > votes.n:
        raise LogError(f"{where} has {votes.n:,} noises and not {n:,}; pass --n of at most that.")
    chosen = _of_fewer(votes, n, row.index)
    alpha = votes.alpha if alpha is None else alpha
    p = lower_bound(chosen, n, alpha) - votes.noise_error
    label = votes.label if p > 0.5 else -1
    radius = 0.0 if label == -1 else max(0.0, round_down(votes.sigma * NormalDist().inv_cdf(p)))
    votes = replace(votes, chosen=chosen, n=n, alpha=alpha)
    return Row(row.index, row.label, label, radius, label == row.label, row.seconds, votes)


def _of_fewer(votes: Votes, n: int, index: int) -> int:
    """Votes for the label among n of the noises."""
    if n == votes.n:
        return votes.chosen
    draw = random.Random(f"{index} {n}")  # noqa: S311  no secret; the same each time
    rarer = min(votes.chosen, votes.n - votes.chosen)
    found = sum(position < n for position in draw.sample(range(votes.n), rarer))
    return found if rarer == votes.chosen else n - found
