"""Recertification with two engines: `spacte recertify` without a gateway. Light to import.

For each image a pilot decides: carry its certificate over, or make one anew; see `certification.carrying`.
"""

import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from spacte_client.types import Certificate, CertifyParams
from spacte_workers.certification.algorithm import Certification, CertifySpec
from spacte_workers.certification.canonical import bound_to_noise
from spacte_workers.certification.carrying import LOSS, anew, carry_over, votes_cast
from spacte_workers.certification.certificates import ModelIdentity, certificate
from spacte_workers.drawing import draw
from spacte_workers.images import asked_of, image_sha256
from spacte_workers.seeds import fresh_seed
from spacte_workers.shards import Image

from .chains import Record
from .inputs import open_source
from .inputs.pixels import row_pixels
from .results import certificate_in, certificate_record, read_results

if TYPE_CHECKING:
    from spacte_core.checkpoint import Checkpoint
    from spacte_workers.engine import Engine

    from .job_folder import JobSpec


@dataclass(frozen=True)
class Recertifier:
    """Carries certificates of `old` over to `new`; both are engines over the same input shape and classes.

    Attributes:
        old, new: the models. The old one votes as it did when it certified.
        about: what the certificates say of the new one.
        n: the most noises of an image; None takes as many as its certificate had.
        loss: share of a radius that may be lost by carrying over.
    """

    old: "Engine"
    new: "Engine"
    about: ModelIdentity
    n: int | None = None
    loss: float = LOSS

    def of(self, image: Image, base: Certificate) -> Certificate:
        """The certificate of one image, by the new model."""
        steps, votes = carry_over(base, self.about, seed=fresh_seed(), n=self.n or base.n_max, loss=self.loss), None
        while True:
            try:
                pairs = next(steps) if votes is None else steps.send(votes)
            except StopIteration as end:
                return end.value or self._anew(image, base)
            votes = draw(pairs.run(), self.old, image), draw(pairs.run(), self.new, image)

    def _anew(self, image: Image, base: Certificate) -> Certificate:
        started = time.perf_counter()
        params = CertifyParams(n0=base.n0, n=self.n or base.n_max, alpha=anew(base.alpha), noise=base.noise)
        asked = CertifySpec.from_params(
            params,
            sigma=base.sigma,
            num_classes=self.new.num_classes,
            shape=image.shape,
            seed=fresh_seed(),
            image_index=base.image_index,
            expected=base.expected,
        )
        sha256 = image_sha256(image)
        spec = bound_to_noise(asked, self.about, sha256)
        outcome = draw(Certification(spec), self.new, image)
        elapsed_ms = (time.perf_counter() - started) * 1000
        return certificate(
            spec,
            outcome,
            self.about,
            id=f"{base.id}-{self.about.version[:8]}",
            image_sha256=sha256,
            elapsed_ms=elapsed_ms,
            steps=image.steps,
        )


def recertify_job(
    spec: "JobSpec", results: Path, old: "Checkpoint", recertifier: Recertifier
) -> Iterator[tuple[Record, Record]]:
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
            asked = asked_of(spec.params)
            image = row_pixels(row, spec.input, input_shape=shape, stated=old.config.pictures, asked=asked)
            base = certificate_in(record)
            yield record, recertified_record(record, recertifier.of(image, base), base)
    finally:
        source.close()


def recertified_record(before: dict[str, Any], after: Certificate, base: Certificate) -> Record:
    """The line of an image whose old line is `before` and old certificate `base`."""
    record = certificate_record(before["index"], before.get("true_label"), before.get("custom_id"), after)
    return record | {"votes": votes_cast(after, base)}
