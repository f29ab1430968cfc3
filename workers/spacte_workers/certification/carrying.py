"""Votes of one function as a certificate about another one: after a change of the model, or of its arithmetic.

Both functions vote on the same noises (`Pairs`), and few of them bound how often they differ, see
`statistics.disagreement`. Nothing here draws: what is to be drawn is yielded, and its votes are sent back.
"""

import math
from collections.abc import Generator
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import numpy as np
from numpy.typing import NDArray

from spacte_client.rounding import round_down
from spacte_client.types import ABSTAIN, Carried, Certificate
from spacte_workers.shards import NoiseSource, Phase, Votes
from spacte_workers.statistics.bounds import clopper_pearson_lower, radius
from spacte_workers.statistics.disagreement import carried_lower

from .canonical import digest, pairs_request, request_in
from .certificates import KERNELS, ModelIdentity, software_versions
from .sampling_run import SingleLookRun

PILOT = 200
"""Noises that both vote on before the choice. Chosen: tells disagreements of 1 % from those of 5 %."""

LADDER = (0.01, 0.02, 0.05, 0.1, 0.2)
"""Shares of the noises that a carried certificate may take, the smallest that serves. Chosen: beyond a fifth, at two
votes each, little is saved."""

LOSS = 0.02
"""Share of a radius that may be lost by carrying it over, unless the caller says otherwise. Chosen: hardly seen in a
curve, and a tenth of what a hundred times fewer noises lose."""

PAIRS_SHARE = 0.1
"""Of `n`, how many more noises are voted on by both where float32 is certified by the votes of another arithmetic.
Chosen: adds half to the time of int8 votes, which are four times as fast; a quarter of `n` would double it."""

Rows = NDArray[np.int64]
"""The class of each row, `ABSTAIN` where a logit is not finite."""


class RowsRun(SingleLookRun[Rows]):
    """One image on its way to the vote of every noise, in the order of the noises."""

    def outcome(self) -> Rows:
        """The votes; only when `done`."""
        return np.concatenate([rows_of(part) for part in self.parts])


@dataclass(frozen=True, slots=True)
class Pairs:
    """Noises 0..n-1 of a phase on which two functions are to vote."""

    source: NoiseSource
    phase: Phase
    n: int
    num_classes: int

    def run(self) -> RowsRun:
        """What one of the functions has to draw."""
        return RowsRun(self.source, self.phase, self.n, self.num_classes)


def differences(label: int, voter_N: Rows, about_N: Rows) -> int:
    """Noises on which the voter votes for the label and the other function does not."""
    return int(((voter_N == label) & (about_N != label)).sum())


def pairs_of(certificate: Certificate, about: ModelIdentity, n: int, seed: str, phase: Phase) -> Pairs:
    """The noises that carry a certificate's votes over to another function.

    Args:
        certificate: its votes are those of the function that it names.
        about: the other function.
        n: how many noises. It enters their key, so that it cannot be restated once they are drawn.
        seed: theirs; the certificate's own, or one drawn later.
        phase: theirs.
    """
    c = certificate
    counted = {name: value for name, value in request_in(c).items() if name != "certify"}  # which `about` says
    request = digest(pairs_request(digest(counted), about, n))
    source = NoiseSource(seed, c.image_index, c.sigma, c.noise, request_digest=request, output="logits")
    return Pairs(source, phase, n, len(c.counts))


def reference_noises(n: int) -> int:
    """Noises, beside a certificate's own `n`, that carry votes of another arithmetic over to the plain network."""
    return math.ceil(PAIRS_SHARE * n)


def reference_pairs(certificate: Certificate, about: ModelIdentity) -> Pairs:
    """The noises that carry votes of another arithmetic over to the plain float32 network: a share of `n`."""
    n = reference_noises(certificate.n)
    return pairs_of(certificate, about, n, certificate.seed, Phase.DISAGREEMENT)


def carried_over(
    certificate: Certificate, about: ModelIdentity, found: int, pairs: Pairs, *, base: str | None = None
) -> Certificate:
    """The certificate about another function.

    Args:
        certificate: of the voter, with a fixed number of noises.
        about: the other function.
        found: `differences` over the pairs.
        pairs: the noises that both voted on.
        base: id of the certificate, where it is an answer of its own.
    """
    c = certificate
    label = selected_class(c)
    p_lower = float(carried_lower(c.counts[label], c.n, found, pairs.n, c.alpha, c.noise_error))
    abstained = p_lower <= 0.5
    carried = Carried(
        model=c.model,
        model_version=c.model_version,
        precision=c.precision,
        kernels=c.versions.get(KERNELS),
        pairs=pairs.n,
        differences=found,
        seed=pairs.source.seed,
        certificate=base,
    )
    changes: dict[str, Any] = {
        "model": about.name,
        "model_version": about.version,
        "precision": about.precision,
        "versions": {**software_versions(), KERNELS: about.kernels},
        "bound": "clopper_pearson",
        "label": ABSTAIN if abstained else label,
        "label_name": None if abstained else about.class_names[label],
        "abstained": abstained,
        "p_lower": p_lower,
        "radius": 0.0 if abstained else round_down(float(radius(p_lower, c.sigma))),
        "carried": carried,
        "remote": about.remote or c.remote,
        "signature": None,
    }
    if base is not None:
        changes |= {
            "id": f"{c.id}-{about.version[:8]}",
            "created_at": datetime.now(UTC),
            "elapsed_ms": 0.0,
            "queue_ms": 0.0,
        }
    return c.model_copy(update=changes)


def voted_by(carried: Certificate) -> Certificate:
    """A carried certificate as far as its votes go: naming the function that cast them."""
    c = carried.carried
    if c is None:
        return carried
    versions = {name: version for name, version in carried.versions.items() if name != KERNELS}
    changes = {"model": c.model, "model_version": c.model_version, "precision": c.precision}
    return carried.model_copy(
        update=changes | {"versions": versions if c.kernels is None else versions | {KERNELS: c.kernels}}
    )


def is_fixed(certificate: Certificate) -> bool:
    """Whether its votes can be carried over: its own, of a number of noises fixed beforehand, and for a class."""
    c = certificate
    return not c.abstained and c.looks == 1 and c.n == c.n_max and c.carried is None and c.k_consensus is None


def selected_class(certificate: Certificate) -> int:
    """The class with the most selection votes, which all bounds are about."""
    return certificate.selection_counts.index(max(certificate.selection_counts))


CarryOver = Generator[Pairs, tuple[Rows, Rows], Certificate | None]


def carry_over(base: Certificate, about: ModelIdentity, *, seed: str, n: int, loss: float = LOSS) -> CarryOver:
    """Carry a certificate over to a changed model, where that takes fewer noises than a new one.

    Args:
        base: of the model as it was.
        about: the model as it is now.
        seed: of the noises that both vote on.
        n: noises of a certificate made anew.
        loss: share of the radius that may be lost.

    Yields:
        Noises; send the votes of the old and of the new model.

    Returns:
        The certificate, or None where one made anew is cheaper or proves more.
    """
    if not is_fixed(base):
        return None
    pilot = pairs_of(base, about, PILOT, seed, Phase.PILOT)
    voter_N, about_N = yield pilot
    successes = int((about_N == base.label).sum())
    enough = enough_pairs(base, differences(base.label, voter_N, about_N), successes, n, loss)
    if not enough:
        return None
    pairs = pairs_of(base, about, enough, seed, Phase.DISAGREEMENT)
    voter_N, about_N = yield pairs
    return carried_over(base, about, differences(base.label, voter_N, about_N), pairs, base=base.id)


def enough_pairs(base: Certificate, found: int, successes: int, n: int, loss: float) -> int:
    """How many pairs are likely to keep the radius; 0 where none do for less than a new certificate costs.

    Args:
        base: of the model as it was.
        found, successes: in the pilot, noises on which the models differ, and those that the new one gives the label.
        n, loss: as for `carry_over`.
    """
    share = max(found, 0.5) / PILOT  # chosen: half a difference where the pilot saw none
    wanted = float(radius(clopper_pearson_lower(round(successes / PILOT * n), n, base.alpha / 2), 1.0))
    for part in LADDER:
        pairs = max(int(part * n), 1)
        kept = carried_lower(base.counts[base.label], base.n, share * pairs, pairs, base.alpha)
        if float(radius(kept, 1.0)) >= (1.0 - loss) * wanted > 0:
            return pairs
    return 0


def anew(alpha: float) -> float:
    """The alpha of a certificate that is made anew in place of one that might have been carried over.

    Half is for the old votes, which the choice hangs on, and half for what is drawn after it. So what is claimed of an
    image is false with probability at most alpha, whichever way was chosen.
    """
    return alpha / 2


def votes_cast(after: Certificate, base: Certificate | None) -> int:
    """Votes cast for a new certificate by either model; without a base there was no pilot."""
    pilot = 2 * PILOT if base is not None and is_fixed(base) else 0
    return pilot + (after.n0 + after.n if after.carried is None else 2 * after.carried.pairs)


def rows_of(votes: Votes) -> Rows:
    """The vote of each row of a shard that came with its logits."""
    logits_NK = votes.logits_NK
    if logits_NK is None:
        raise ValueError("a sampler sent votes without the logits that were asked for")
    return np.where(np.isfinite(logits_NK).all(1), logits_NK.argmax(1), ABSTAIN)
