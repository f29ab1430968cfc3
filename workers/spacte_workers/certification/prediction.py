"""One prediction: PREDICT of Cohen et al. 2019 (section 3.2.1). Vote, test the lead of the top class, answer or
abstain."""

from dataclasses import dataclass

from spacte_client.types import ABSTAIN, Noise, PredictParams, SeedSource
from spacte_workers.shards import NoiseSource, Phase
from spacte_workers.statistics.top_class import TopClass, predict_looks, top_class_test

from .sampling_run import SamplingRun
from .tally import Tally


@dataclass(frozen=True, slots=True)
class PredictSpec:
    """Everything that determines a prediction besides the image and the classifier.

    Attributes:
        sigma, num_classes, noise, seed, seed_source, k_consensus, request_digest: as in a `CertifySpec`.
        n: the most noises to draw.
        alpha: probability of a wrong answer that is tolerated, in (0, 1).
        early_stop: whether to answer before `n` noises, at predetermined looks that share alpha.
    """

    sigma: float
    num_classes: int
    n: int
    alpha: float
    noise: Noise
    seed: str
    k_consensus: int | None = None
    early_stop: bool = False
    seed_source: SeedSource = "service"
    request_digest: str = ""

    @classmethod
    def from_params(
        cls, params: PredictParams, *, sigma: float, num_classes: int, seed: str, seed_source: SeedSource = "service"
    ) -> "PredictSpec":
        """What a caller asks of a model. Arguments as for `CertifySpec.from_params`."""
        asked = (sigma, num_classes, params.n, params.alpha, params.noise, seed)
        return cls(*asked, k_consensus=params.k_consensus, seed_source=seed_source)

    @property
    def noise_source(self) -> NoiseSource:
        """What determines the noises besides their index."""
        return NoiseSource(self.seed, 0, self.sigma, self.noise, self.k_consensus, self.request_digest)


@dataclass(frozen=True, slots=True)
class PredictOutcome:
    """The answer to a `PredictSpec`. Its fields are those of a `Prediction`.

    Attributes:
        label: the class, or `ABSTAIN`.
        abstained: whether the lead of the most frequent class was not significant.
        p_value: two-sided binomial test between the two most frequent classes.
        counts: votes per class; the rest of `n` voted for none.
        n: noises counted.
    """

    label: int
    abstained: bool
    p_value: float
    counts: tuple[int, ...]
    n: int


class PredictionRun(SamplingRun[PredictOutcome]):
    """One image on its way to a prediction."""

    def __init__(self, spec: PredictSpec) -> None:
        self.spec = spec
        self._schedule = predict_looks(spec.n, spec.alpha, early_stop=spec.early_stop)
        boundaries = [look.n for look in self._schedule]
        super().__init__(Tally(spec.noise_source, Phase.PREDICTION, boundaries, spec.num_classes))
        self._top = TopClass(ABSTAIN, 1.0)
        self._certain = False

    def outcome(self) -> PredictOutcome:
        """The answer; only when `done`."""
        if not self.done:
            raise RuntimeError("the outcome is asked for before the prediction is done")
        look = self._looks_done - 1
        return PredictOutcome(
            label=self._top.label if self._certain else ABSTAIN,
            abstained=not self._certain,
            p_value=self._top.p_value,
            counts=self._last.counts_at(look),
            n=self.looks[look],
        )

    def _look(self) -> None:
        while not self._settled and self._looks_done < self._last.complete:
            look = self._looks_done
            self._top = top_class_test(self._last.counts_at(look))
            self._looks_done += 1
            self._certain = self._top.p_value <= self._schedule[look].alpha
            self._settled = self._certain or self._looks_done == len(self.looks)

    def _limit(self, speculate: bool) -> int:
        """How many noises may be handed out by now: to the next look, or the one after it."""
        ahead = self._last.complete + (1 if speculate else 0)
        return self.looks[min(ahead, len(self.looks) - 1)]
