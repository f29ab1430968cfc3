"""Promise: the answer on the wire says everything that is needed to check it."""

from datetime import UTC, datetime

from spacte_client.types import Certificate, Prediction
from spacte_workers.certification import certificates
from spacte_workers.certification.algorithm import CertifySpec, Outcome
from spacte_workers.certification.prediction import PredictOutcome, PredictSpec

MODEL = certificates.ModelIdentity("digits", "f" * 64, ("zero", "one", "two"), "bf16", "plain")
SPEC = CertifySpec(
    sigma=0.25,
    num_classes=3,
    n0=10,
    n_max=100,
    alpha=0.01,
    bound="two_class",
    noise="grid",
    seed="a" * 32,
    image_index=7,
    k_consensus=2,
    target_radius=0.4,
    noise_error=1e-9,
)
ABOUT = {"id": "req_2", "image_sha256": "0" * 64, "elapsed_ms": 2.0}
OUTCOME = Outcome(1, False, 0.123456, 0.7, 10, 72, (1, 70, 1), (0, 10, 0), "target", 8, "two_class")


def certificate(outcome: Outcome = OUTCOME) -> Certificate:
    return certificates.certificate(
        SPEC, outcome, MODEL, id="req_1", image_sha256="0" * 64, elapsed_ms=5.0, queue_ms=1.0
    )


def test_a_certificate_carries_the_question_and_the_answer():
    c = certificate()
    asked = (c.sigma, c.alpha, c.n0, c.n_max, c.bound, c.noise, c.seed, c.image_index, c.k_consensus)
    assert asked == (0.25, 0.01, 10, 100, "two_class", "grid", "a" * 32, 7, 2)
    assert (c.schema_version, c.bound_requested, c.seed_source, c.invalid) == (2, "two_class", "service", 0)
    assert (c.target_radius, c.tolerance, c.deadline_ms, c.noise_error) == (0.4, None, None, 1e-9)
    assert (c.label, c.label_name, c.abstained, c.radius, c.p_lower) == (1, "one", False, 0.123456, 0.7)
    assert (c.n, c.counts, c.selection_counts) == (72, [1, 70, 1], [0, 10, 0])
    assert (c.stop_reason, c.looks, c.elapsed_ms, c.queue_ms) == ("target", 8, 5.0, 1.0)
    assert (c.model, c.model_version, c.precision) == ("digits", "f" * 64, "bf16")
    assert abs((datetime.now(UTC) - c.created_at).total_seconds()) < 60
    assert set(c.versions) == {"spacte-workers", "torch", "numpy", "scipy", "kernels"}
    assert c.versions["kernels"] == MODEL.kernels
    assert Certificate.model_validate_json(c.model_dump_json()) == c


def test_an_abstention_has_no_name():
    c = certificate(Outcome(-1, True, 0.0, 0.2, 10, 100, (40, 30, 30), (4, 3, 3), "n_max", 20, "two_class"))
    assert (c.label, c.label_name, c.abstained, c.radius) == (-1, None, True, 0.0)


def test_a_prediction_carries_the_question_and_the_answer():
    spec = PredictSpec(sigma=0.5, num_classes=3, n=50, alpha=0.01, noise="float", seed="b" * 32, k_consensus=1)
    p = certificates.prediction(spec, PredictOutcome(2, False, 1e-9, (1, 2, 47), 50), MODEL, **ABOUT)
    assert (p.label, p.label_name, p.abstained, p.p_value) == (2, "two", False, 1e-9)
    assert (p.counts, p.n, p.alpha, p.sigma, p.noise) == ([1, 2, 47], 50, 0.01, 0.5, "float")
    assert (p.precision, p.k_consensus, p.seed, p.elapsed_ms) == ("bf16", 1, "b" * 32, 2.0)
    assert Prediction.model_validate_json(p.model_dump_json()) == p
    abstained = certificates.prediction(spec, PredictOutcome(-1, True, 0.5, (20, 20, 10), 50), MODEL, **ABOUT)
    assert (abstained.label, abstained.label_name, abstained.abstained) == (-1, None, True)
