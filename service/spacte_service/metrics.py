"""Prometheus metrics, in a registry of their own; names and labels are the API's."""

from collections.abc import Callable, Iterator, Mapping
from functools import partial
from typing import TYPE_CHECKING, get_args

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, ProcessCollector, generate_latest
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.registry import Collector

from spacte_client.types import Certificate, JobState, Prediction

from .admission import Admission
from .version import VERSION

if TYPE_CHECKING:
    from spacte_workers.serving.pools import PoolStatus

SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120)
"""Buckets: prometheus-client's own up to 10 s, and long proofs."""

SAMPLES = tuple(float(2**k) for k in range(5, 21))
"""Buckets from 32 noises to the most that a request may ask for by default."""


class Metrics:
    """What the gateway counts, and as their `Observer` the workers."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        ProcessCollector(registry=self.registry)
        counter = partial(Counter, registry=self.registry)
        seconds = partial(Histogram, registry=self.registry, buckets=SECONDS)
        self.requests = counter("spacte_http_requests", "Requests answered.", ("route", "method", "status"))
        self.request_seconds = seconds(
            "spacte_http_request_duration_seconds", "From a request's arrival to the end of its answer.", ("route",)
        )
        self.certify_seconds = seconds(
            "spacte_certify_duration_seconds", "From a request's arrival to its certificate.", ("model",)
        )
        self.certify_samples = Histogram(
            "spacte_certify_samples",
            "Noises counted in a certificate, selection and estimation.",
            ("model",),
            buckets=SAMPLES,
            registry=self.registry,
        )
        self.certificates = counter("spacte_certificates", "Certificates issued.", ("model", "stop_reason"))
        self.version_seconds = seconds(
            "spacte_version_answer_duration_seconds",
            "From a request's arrival to its answer, by the version that answered (twelve digits).",
            ("model", "version"),
        )
        self.version_abstentions = counter(
            "spacte_version_abstentions", "Of these, answers that abstain.", ("model", "version")
        )
        self.abstentions = counter("spacte_abstentions", "Certificates that abstain.", ("model",))
        self.samples_drawn = counter("spacte_samples_drawn", "Noises drawn by the samplers.", ("model",))
        self.samples_wasted = counter(
            "spacte_samples_wasted", "Of these, noises that no answer counts.", ("model", "reason")
        )
        self.shard_seconds = seconds(
            "spacte_shard_duration_seconds", "Time a sampler took for one engine job.", ("model",)
        )
        self.shard_retries = counter("spacte_shard_retries", "Shards that had to be drawn again.", ("reason",))
        self.jobs = Gauge("spacte_jobs", "Jobs by state.", ("state",), registry=self.registry)
        self.job_outcomes = counter("spacte_job_images", "Images of jobs by what became of them.", ("outcome",))
        build = Gauge("spacte_build_info", "1, with the version as a label.", ("version",), registry=self.registry)
        build.labels(VERSION).set(1)

    def watch(self, admission: Admission, pool_status: "Callable[[], PoolStatus]") -> None:
        """Show how many requests wait and run, and how many samplers there are, when the metrics are read."""
        self.registry.register(_CurrentState(admission, pool_status))

    def answered(self, route: str, method: str, status: int, seconds: float) -> None:
        """Count an HTTP request. `route` is the template, such as `/v1/models/{name}`."""
        self.requests.labels(route, method, str(status)).inc()
        self.request_seconds.labels(route).observe(seconds)

    def certified(self, certificate: Certificate) -> None:
        """Count a certificate."""
        model = certificate.model
        self.certify_seconds.labels(model).observe(certificate.elapsed_ms / 1000)
        self.certify_samples.labels(model).observe(certificate.n0 + certificate.n)
        self.certificates.labels(model, certificate.stop_reason).inc()
        if certificate.abstained:
            self.abstentions.labels(model).inc()
        self.answered_by(certificate)

    def answered_by(self, answer: Certificate | Prediction) -> None:
        """Count an answer under the version that gave it."""
        labels = answer.model, answer.model_version[:12]
        self.version_seconds.labels(*labels).observe(answer.elapsed_ms / 1000)
        self.version_abstentions.labels(*labels).inc(answer.abstained)

    def drawn(self, model: str, noises: int, seconds: float) -> None:
        """A sampler finished an engine job of so many noises in so many seconds."""
        self.samples_drawn.labels(_name(model)).inc(noises)
        self.shard_seconds.labels(_name(model)).observe(seconds)

    def wasted(self, model: str, noises: int, reason: str) -> None:
        """Noises that were drawn and that no answer counts."""
        self.samples_wasted.labels(_name(model), reason).inc(noises)

    def retried(self, shards: int, reason: str) -> None:
        """Shards that have to be drawn again."""
        self.shard_retries.labels(reason).inc(shards)

    def jobs_are(self, by_state: Mapping[str, int]) -> None:
        """So many jobs are in each state; states that are not named have none."""
        for state in get_args(JobState):
            self.jobs.labels(state).set(by_state.get(state, 0))

    def job_images(self, by_outcome: Mapping[str, int]) -> None:
        """So many more images of jobs have come to each outcome."""
        for outcome, images in by_outcome.items():
            self.job_outcomes.labels(outcome).inc(images)

    def text(self) -> bytes:
        """All of them, in Prometheus's text format."""
        return generate_latest(self.registry)


def _name(model: str) -> str:
    """A model's name; the samplers know it by name and version, which are too many for a label."""
    return model.partition("@")[0]


class _CurrentState(Collector):
    """Gauges that are computed when they are read."""

    def __init__(self, admission: Admission, pool_status: "Callable[[], PoolStatus]") -> None:
        self._admission = admission
        self._pool_status = pool_status

    def collect(self) -> Iterator[GaugeMetricFamily]:
        """The state of queue and samplers."""
        depth = GaugeMetricFamily("spacte_queue_depth", "Requests that wait their turn.", labels=["class"])
        depth.add_metric(["interactive"], self._admission.waiting)
        yield depth
        running = GaugeMetricFamily("spacte_inflight_images", "Images being worked on.", labels=["class"])
        running.add_metric(["interactive"], self._admission.queue.running)
        yield running
        pool_status = self._pool_status()
        samplers = GaugeMetricFamily("spacte_samplers", "Samplers by state.", labels=["state"])
        for state in ("starting", "ready", "lost"):
            samplers.add_metric([state], getattr(pool_status, state))
        yield samplers
