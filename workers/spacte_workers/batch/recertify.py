"""`spacte recertify`: certificates of one model carried over to another from a few votes on the same noises.

For each image a pilot decides: carry its certificate over by the bound of `statistics/disagreement.py`, or certify it
from scratch. Half of alpha is for the old votes, half for whatever is drawn after the choice. So what is claimed of an
image is false with probability at most alpha, however the choice depends on old votes and pilot.

Light to import; torch is loaded when the command runs.
"""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, cast

import numpy as np
from numpy.typing import NDArray

from spacte_client.rounding import round_down
from spacte_client.types import ABSTAIN, Certificate, CertifyParams
from spacte_workers.certification.algorithm import Certification, CertifySpec
from spacte_workers.images import asked_of
from spacte_workers.seeds import fresh_seed
from spacte_workers.shards import Image, NoiseSource, Phase, Shard
from spacte_workers.statistics.bounds import clopper_pearson_lower, radius
from spacte_workers.statistics.disagreement import carried_lower

from .inputs import open_source
from .inputs.pixels import row_pixels
from .results import read_results

if TYPE_CHECKING:
    from spacte_core.checkpoint import Checkpoint
    from spacte_workers.engine import Engine

    from .job_folder import JobSpec

PILOT = 200
"""Noises that both models vote on before the choice. Chosen: tells disagreements of 1 % from those of 5 %."""

LADDER = (0.01, 0.02, 0.05, 0.1, 0.2)
"""Shares of the old noises that a carried certificate may take, the smallest that serves. Chosen: beyond a fifth, at
two votes each, little is saved."""


@dataclass(frozen=True, slots=True)
class Carried:
    """What is claimed of one image for the new model.

    Attributes:
        how: `carried` from the old certificate, or `certified` from scratch.
        label, radius: the claim; `ABSTAIN` and 0 without one.
        p_lower: bound on the probability of the label under noise.
        samples: votes that were cast for it, by either model.
        differences, pairs: see `carried_lower`; 0 where it was certified from scratch.
    """

    how: Literal["carried", "certified"]
    label: int
    radius: float
    p_lower: float
    samples: int
    differences: int = 0
    pairs: int = 0


@dataclass(frozen=True)
class Recertifier:
    """Carries certificates of `old` over to `new`; both are engines over the same input shape and classes.

    Attributes:
        old, new: the models. The old one votes as it did when it certified.
        n: the most noises of an image; None takes as many as its certificate had.
        loss: share of a radius that may be lost by carrying over.
    """

    old: "Engine"
    new: "Engine"
    n: int | None = None
    loss: float = 0.02

    def of(self, image: Image, certificate: Certificate, index: int) -> Carried:
        """The claim about one image.

        Args:
            image: its pixels.
            certificate: of the old model.
            index: of the image; noises of different images are independent.
        """
        source = NoiseSource(fresh_seed(), index, certificate.sigma, certificate.noise, output="logits")
        drawn = 0
        if _fixed(certificate):
            pilot, successes = self._differences(image, certificate.label, source, 0, PILOT)
            drawn = 2 * PILOT
            pairs = self._enough(certificate, pilot, successes)
            if pairs:
                differences, _ = self._differences(image, certificate.label, source, PILOT, PILOT + pairs)
                return _carried(certificate, differences, pairs, drawn + 2 * pairs)
        return self._from_scratch(image, certificate, index, drawn)

    def _enough(self, certificate: Certificate, differences: int, successes: int) -> int:
        """How many pairs are likely to keep the radius; 0 where none do for less than certifying costs."""
        n = self.n or certificate.n
        share = max(differences, 0.5) / PILOT  # chosen: half a difference where the pilot saw none
        wanted = float(radius(clopper_pearson_lower(round(successes / PILOT * n), n, certificate.alpha / 2), 1.0))
        for part in LADDER:
            pairs = max(int(part * n), 1)
            votes = certificate.counts[certificate.label]
            found = carried_lower(votes, certificate.n, share * pairs, pairs, certificate.alpha)
            if float(radius(found, 1.0)) >= (1.0 - self.loss) * wanted > 0:
                return pairs
        return 0

    def _differences(self, image: Image, label: int, source: NoiseSource, start: int, stop: int) -> tuple[int, int]:
        """Noises on which the old model votes for the label and the new one does not; and those where the new does."""
        shard = Shard(source, Phase.DISAGREEMENT, start, stop)
        old_N, new_N = (_votes(engine, image, shard) for engine in (self.old, self.new))
        return int(((old_N == label) & (new_N != label)).sum()), int((new_N == label).sum())

    def _from_scratch(self, image: Image, certificate: Certificate, index: int, drawn: int) -> Carried:
        params = CertifyParams(
            n0=certificate.n0, n=self.n or certificate.n_max, alpha=certificate.alpha / 2, noise=certificate.noise
        )
        classes = self.new.num_classes
        spec = CertifySpec.from_params(
            params,
            sigma=certificate.sigma,
            num_classes=classes,
            shape=image.shape,
            seed=fresh_seed(),
            image_index=index,
        )
        run = Certification(spec)
        while not run.done:
            for shard in run.next_shards(64 * self.new.batch):
                run.give(shard, self.new.votes(image, shard))
        found = run.outcome()
        return Carried("certified", found.label, found.radius, found.p_lower, drawn + found.n0 + found.n)


def _fixed(certificate: Certificate) -> bool:
    """Whether its votes are over a number of noises that was fixed beforehand, and name a class."""
    return not certificate.abstained and certificate.looks == 1 and certificate.n == certificate.n_max


def _votes(engine: "Engine", image: Image, shard: Shard) -> NDArray[np.int64]:
    """The class of each row, -1 where a logit is not finite."""
    logits_NK = cast("NDArray[np.float32]", engine.votes(image, shard).logits_NK)
    return np.where(np.isfinite(logits_NK).all(1), logits_NK.argmax(1), ABSTAIN)


def _carried(certificate: Certificate, differences: int, pairs: int, samples: int) -> Carried:
    successes, error = certificate.counts[certificate.label], certificate.noise_error
    p_lower = float(carried_lower(successes, certificate.n, differences, pairs, certificate.alpha, error))
    proven = round_down(float(radius(p_lower, certificate.sigma)))
    label = certificate.label if p_lower > 0.5 else ABSTAIN
    return Carried("carried", label, proven, p_lower, samples, differences, pairs)


def recertify_job(
    spec: "JobSpec", results: Path, old: "Checkpoint", recertifier: Recertifier
) -> Iterator[tuple[dict[str, Any], dict[str, Any]]]:
    """Every certified or abstained image of a job: its old record, and the new one.

    Raises:
        InputError: the job's input cannot be opened any more.
    """
    shape = old.config.model.input_shape
    source = open_source(spec.input, shape, class_names=old.config.class_names)
    try:
        for record in read_results(results):
            if record["outcome"] == "errored":
                continue
            row = source.read(record["index"])
            image = row_pixels(
                row, spec.input, input_shape=shape, stated=old.config.pictures, asked=asked_of(spec.params)
            )
            certificate = Certificate.model_validate(record)
            yield record, _record(record, recertifier.of(image, certificate, record["index"]), recertifier)
    finally:
        source.close()


def _record(old: dict[str, Any], found: Carried, recertifier: Recertifier) -> dict[str, Any]:
    abstained = found.label == ABSTAIN
    true_label = old.get("true_label")
    return {
        "index": old["index"],
        "custom_id": old.get("custom_id"),
        "true_label": true_label,
        "label": found.label,
        "outcome": "abstained" if abstained else "certified",
        "abstained": abstained,
        "correct": None if true_label is None else found.label == true_label,
        "radius": found.radius,
        "p_lower": found.p_lower,
        "alpha": old["alpha"],
        "sigma": old["sigma"],
        "how": found.how,
        "differences": found.differences,
        "pairs": found.pairs,
        "samples": found.samples,
        "base_certificate": old["id"],
        "precision": recertifier.new.precision,
        "kernels": recertifier.new.kernels,
    }


def line(record: dict[str, Any]) -> bytes:
    """A record as a line of NDJSON."""
    return json.dumps(record, separators=(",", ":")).encode() + b"\n"
