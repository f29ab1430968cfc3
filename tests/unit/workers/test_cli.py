"""Promise: `spacte verify` and `spacte bench samples` say in a sentence what is so, and exit accordingly."""

import json
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest
from typer.testing import CliRunner

from spacte_workers import local
from spacte_workers.bench.samples import CASES
from spacte_workers.bench.simulated import simulated_votes
from spacte_workers.certification import certificates
from spacte_workers.certification.algorithm import Certification, CertifySpec
from spacte_workers.cli import bench_app, verify_app
from spacte_workers.engine.self_checks import compare
from spacte_workers.noise.table import noise_table
from spacte_workers.shards import Votes


@pytest.fixture
def certificate():
    spec = CertifySpec(
        sigma=0.25,
        num_classes=3,
        n0=30,
        n_max=500,
        alpha=0.001,
        bound="clopper_pearson",
        noise="grid",
        seed="c" * 32,
        noise_error=64 * noise_table(0.25).total_variation,
    )
    run = Certification(spec)
    while not run.done:
        for shard in run.next_shards(200):
            run.give(shard, Votes(simulated_votes(shard, (0.1, 0.8, 0.1)), 0.01))
    model = certificates.ModelIdentity("m", "f" * 64, ("a", "b", "c"), "fp32", "plain")
    return certificates.certificate(
        spec, run.outcome(), model, id="req_1", image_sha256="0" * 64, elapsed_ms=5.0
    ).model_dump(mode="json")


def verify(*arguments, text=None):
    return CliRunner().invoke(verify_app, [str(a) for a in arguments], input=text)


def test_a_true_certificate(tmp_path, certificate):
    file = tmp_path / "cert.json"
    file.write_text(json.dumps(certificate, indent=2))
    result = verify(file)
    assert result.exit_code == 0
    assert result.output == "The certificate fits: label, bound and radius recomputed from its counts.\n"
    assert verify("-", text=file.read_text()).exit_code == 0


def test_a_false_certificate(tmp_path, certificate):
    file = tmp_path / "cert.json"
    file.write_text(json.dumps({**certificate, "radius": 0.5}))
    result = verify(file)
    assert result.exit_code == 1
    assert result.output.startswith("radius: it is 0.5, but the counts prove ")
    assert json.loads(verify(file, "--json").output)["fits"] is False


def test_the_results_of_a_job(tmp_path, certificate):
    """One line an image; images without a certificate are passed over, a false line is named."""
    lines = [
        {**certificate, "outcome": "certified", "index": 0},
        {"outcome": "errored", "index": 1, "error": {"code": "bad_image", "detail": "no"}},
        {**certificate, "outcome": "certified", "index": 2, "p_lower": 0.9},
    ]
    file = tmp_path / "results.ndjson"
    file.write_text("\n".join(map(json.dumps, lines)))
    result = verify(file)
    assert result.exit_code == 1
    assert "line 3: p_lower" in result.output
    assert "1 of 2 certificates fit" in result.output


@pytest.mark.parametrize(
    ("content", "says"),
    [("{}", "does not fit"), ("not json", "not JSON"), ("", "no certificate"), ("[1]", "does not fit")],
)
def test_what_is_no_certificate(tmp_path, content, says):
    file = tmp_path / "cert.json"
    file.write_text(content)
    result = verify(file)
    assert result.exit_code == 1
    assert says in str(result.output) + str(result.exception)


def test_a_missing_file_and_half_a_replay(tmp_path, certificate):
    file = tmp_path / "cert.json"
    assert verify(file).exit_code == 1
    file.write_text(json.dumps(certificate))
    assert verify(file, "--replay", tmp_path).exit_code == 1


@pytest.mark.parametrize(
    "odd", [{"p_lower": float("nan")}, {"sigma": 13.0}, {"seed": "zz"}, {"target_radius": 1e30}, {"k_consensus": 0}]
)
def test_an_odd_certificate_is_a_finding(tmp_path, certificate, odd):
    file = tmp_path / "cert.json"
    file.write_text(json.dumps({**certificate, **odd}))
    result = verify(file)
    assert result.exit_code == 1
    assert isinstance(result.exception, SystemExit), result.exception
    assert result.output.startswith(f"{next(iter(odd))}: ")


@pytest.mark.slow
def test_a_replay(tmp_path):
    """A genuine certificate replays; where votes moved, the sentences say what that may come from and comes to."""
    from spacte_workers import LocalCertifier

    checkpoint = digits_checkpoint(tmp_path / "digits")
    pixels = np.arange(64, dtype=np.uint8).reshape(1, 8, 8) * 4
    np.save(tmp_path / "image.npy", pixels)
    local = LocalCertifier(checkpoint, precision="fp32", device="cpu", batch=64)
    found = local.certify(pixels, n0=20, n=200, alpha=0.01)
    file = tmp_path / "cert.json"
    file.write_text(found.model_dump_json())
    options = ["--replay", checkpoint, "--image", tmp_path / "image.npy", "--device"]
    assert verify(file, *options, "cpu").exit_code == 0
    assert "no device 'abacus'" in str(verify(file, *options, "abacus").exception)

    above = found.model_copy(update={"k_consensus": 9})
    file.write_text(above.model_dump_json())
    result = verify(file, *options, "cpu")
    assert result.exit_code == 1
    assert result.output.startswith("k_consensus: 9 heads are to agree, but the model has 2.")

    other = found.model_copy(update={"seed": "e" * 32, "versions": {"torch": "1.0", "kernels": "abacus"}})
    file.write_text(other.model_dump_json())
    result = verify(file, *options, "cpu")
    assert result.exit_code == 1
    assert "drawn again, " in result.output
    assert "replay: the counts drawn again give" in result.output
    assert "certified with torch 1.0 and kernels abacus; another kind of device (--device)" in result.output


def replayed(tmp_path, change, **options):
    """The result of replaying a certificate of a digit, changed before it is written down."""
    from spacte_workers import LocalCertifier

    checkpoint = digits_checkpoint(tmp_path / "digits")
    pixels = np.arange(64, dtype=np.uint8).reshape(1, 8, 8) * 4
    np.save(tmp_path / "image.npy", pixels)
    found = LocalCertifier(checkpoint, device="cpu", **options).certify(
        pixels, n0=20, n=3_000, alpha=0.01, bound="clopper_pearson"
    )
    file = tmp_path / "cert.json"
    file.write_text(change(found).model_dump_json())
    return verify(file, "--replay", checkpoint, "--image", tmp_path / "image.npy", "--device", "cpu")


@pytest.mark.slow
def test_a_replay_of_a_certificate_that_names_no_kernels(tmp_path, monkeypatch):
    """Those of its time draw the votes again, not faster ones that came later."""

    def unnamed(found):
        assert found.versions["kernels"].startswith("int8/")
        monkeypatch.undo()
        first = {"schema_version": 1, "bound_requested": None, "seed_source": None}
        return found.model_copy(update={"versions": {"torch": "1.0"}, **first})

    monkeypatch.setenv("SPACTE_KERNELS", "-chain")
    monkeypatch.setattr(local, "bound_to_noise", lambda spec, *_: spec)
    result = replayed(tmp_path, unnamed, precision="int8", min_agreement=0.4, batch=256)
    assert result.exit_code == 0, result.output
    assert "It is of version 1" in result.output


@pytest.mark.slow
@pytest.mark.usefixtures("bf16_anywhere")
def test_bf16_is_replayed_where_the_processor_has_no_instructions_for_it(tmp_path, monkeypatch):
    """By the plain network in bf16, whose votes may differ near ties; nothing else is drawn with it."""
    from spacte_workers.engine import selection as choice

    def from_elsewhere(found):
        assert found.precision == "bf16"
        monkeypatch.setattr(choice, "computes_bf16", lambda _: False)
        return found.model_copy(update={"versions": found.versions | {"kernels": "amx/amx_int8"}})

    result = replayed(tmp_path, from_elsewhere, precision="bf16", batch=256)
    assert "cannot be drawn" not in str(result.exception)
    assert result.exit_code == 0 or "kernels plain/" in result.output


@pytest.mark.slow
def test_a_replay_asks_for_no_agreement(tmp_path, monkeypatch):
    """What was allowed to vote is settled: the replay is about which votes there were."""
    from spacte_workers.engine import selection as choice

    monkeypatch.setattr(choice, "compare", lambda *given: replace(compare(*given), agreement=0.5))
    result = replayed(tmp_path, lambda found: found, precision="int8", min_agreement=0.4)
    assert result.exit_code == 0, result.output


def digits_checkpoint(folder, dataset="digits"):
    from spacte_core.checkpoint import CheckpointConfig, save_checkpoint
    from spacte_workers.bench.networks import config_of, settled_network

    model = config_of("digits_cnn", 2)
    config = CheckpointConfig(
        model=model,
        class_names=[str(k) for k in range(10)],
        sigma=0.25,
        method="spacte-gaussian",
        dataset=dataset,
        epochs=1,
        seed=0,
        train={},
        metrics={},
    )
    save_checkpoint(folder, settled_network(model, 0.25), config)
    return str(folder)


@pytest.mark.slow
def test_bench_samples_of_real_images(tmp_path):
    options = ["samples", "--runs", "2", "--n", "2000", "--images", "3", "--json", "--checkpoint"]
    result = CliRunner().invoke(bench_app, [*options, digits_checkpoint(tmp_path / "digits")])
    assert result.exit_code == 0, result.output
    real = json.loads(result.output)["real"]
    assert [row["target"] for row in real] == [1.0, 2.0, 3.0]
    for row in real:
        assert row["images"] == 3
        assert row["fixed"] == 2_100
        assert 100 < row["ours"] <= row["fixed"]
        assert row["stages"] >= 1_100

    other = CliRunner().invoke(bench_app, [*options, digits_checkpoint(tmp_path / "other", "cifar10")])
    assert other.exit_code == 1
    assert "pass a network that was" in str(other.exception)


def test_bench_samples():
    result = CliRunner().invoke(bench_app, ["samples", "--runs", "20", "--n", "2000", "--json"])
    assert result.exit_code == 0
    report = json.loads(result.output)
    assert len(report["cases"]) == len(CASES)
    assert report["cases"][0]["fixed"] == 2_100
    assert report["cases"][-1]["true_radius"] is None
    table = CliRunner().invoke(bench_app, ["samples", "--runs", "20", "--n", "2000"])
    assert table.output.count("\n") == 1 + len(CASES)


def test_the_module_is_light():
    """`spacte --help` imports it: neither torch nor scipy nor ray."""
    code = "import sys, spacte_workers.cli; print([m for m in ('torch', 'scipy', 'ray', 'numpy') if m in sys.modules])"
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert out.stdout.strip() == "[]"
