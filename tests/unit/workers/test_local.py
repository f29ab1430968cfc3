"""Promise: `LocalCertifier` certifies any module or checkpoint in one call, and says what is missing."""

import numpy as np
import pytest
import torch
from torch import nn

from spacte_workers import LocalCertifier
from spacte_workers.errors import BadParameterError, DeadlineExceededError
from spacte_workers.images import BadImageError, from_array, image_sha256

SHAPE = (1, 8, 8)
PIXELS = np.random.default_rng(0).integers(0, 256, SHAPE, dtype=np.uint8)


@pytest.fixture(autouse=True, scope="module")
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def certifier():
    torch.manual_seed(0)
    net = nn.Sequential(nn.Flatten(), nn.Linear(64, 3))
    return LocalCertifier(net, sigma=0.25, num_classes=3, input_shape=SHAPE, precision="fp32", device="cpu", batch=64)


def test_a_certificate_says_everything(certifier):
    answer = certifier.certify(PIXELS, n0=20, n=500, alpha=0.01, seed="ab" * 16)
    assert (sum(answer.selection_counts), sum(answer.counts)) == (20, 500)
    assert (answer.n0, answer.n, answer.n_max, answer.sigma, answer.alpha) == (20, 500, 500, 0.25, 0.01)
    assert (answer.noise, answer.precision, answer.bound, answer.stop_reason) == (
        "grid", "fp32", "clopper_pearson", "n_max",
    )  # fmt: skip
    assert answer.seed == "ab" * 16
    assert answer.image_sha256 == image_sha256(from_array(PIXELS, input_shape=SHAPE))
    again = certifier.certify(PIXELS, n0=20, n=500, alpha=0.01, seed="ab" * 16)
    assert (again.counts, again.radius, again.label) == (answer.counts, answer.radius, answer.label)


def test_a_checkpoint_has_images_of_its_own(tmp_path, make_checkpoint):
    """Others would fit int8 otherwise, and nobody could replay its certificates."""
    make_checkpoint(tmp_path / "digits")
    with pytest.raises(ValueError, match="leave examples out"):
        LocalCertifier(tmp_path / "digits", examples=PIXELS[None])


def test_seeds_are_fresh_by_default(certifier):
    seeds = {certifier.certify(PIXELS, n0=1, n=1).seed for _ in range(3)}
    assert len(seeds) == 3
    assert all(len(seed) == 32 for seed in seeds)


def test_a_prediction(certifier):
    answer = certifier.predict(PIXELS, n=300, seed="01" * 16)
    assert sum(answer.counts) == answer.n == 300
    assert answer.abstained == (answer.p_value > answer.alpha)


def test_selection_and_estimation_noises_differ(certifier):
    answer = certifier.certify(PIXELS, n0=300, n=300, seed="02" * 16)
    assert answer.selection_counts != answer.counts


@pytest.mark.parametrize(
    "image", [PIXELS, torch.from_numpy(PIXELS), PIXELS[0], PIXELS / 255, PIXELS.astype(np.float32) / 255]
)
def test_images_in_any_form_are_the_same_image(certifier, image):
    counts = certifier.certify(PIXELS, n0=5, n=200, seed="03" * 16).counts
    assert certifier.certify(image, n0=5, n=200, seed="03" * 16).counts == counts


def test_images_off_the_grid_need_float_noise(certifier):
    image = np.full(SHAPE, 0.3)
    with pytest.raises(BadImageError, match="noise='float'"):
        certifier.certify(image, n=10)
    assert certifier.certify(image, n=10, noise="float").noise == "float"


def test_stopping_rules(certifier):
    reached = certifier.certify(PIXELS, n=100_000, target_radius=1e-3)
    assert reached.stop_reason in {"target", "futility"}
    assert reached.n < 100_000
    assert certifier.certify(PIXELS, n=1_000, target_radius=1e6).stop_reason in {"unprovable", "futility"}
    with pytest.raises(DeadlineExceededError, match="allow more time"):
        certifier.certify(PIXELS, n0=5_000_000, n=10, deadline_ms=1)


@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("alpha", 1.5),
        ("alpha", float("nan")),
        ("n", 0),
        ("n0", 0),
        ("bound", "none"),
        ("noise", "pink"),
        ("target_radius", -1.0),
        ("target_radius", 1e22),
        ("tolerance", float("inf")),
        ("deadline_ms", 0),
        ("k_consensus", 0),
        ("k_consensus", 2),
        ("seed", "1"),
        ("seed", ""),
    ],
)
def test_options_are_held_to_the_service_s_ranges(certifier, option, value):
    with pytest.raises(BadParameterError, match=f"`{option}`") as caught:
        certifier.certify(PIXELS, **{option: value})
    assert caught.value.field == option
    assert str(caught.value).endswith(".")
    if option in ("alpha", "n", "noise", "k_consensus", "seed"):
        with pytest.raises(BadParameterError):
            certifier.predict(PIXELS, **{option: value})


def test_a_bare_module_must_be_described():
    with pytest.raises(ValueError, match="pass sigma, num_classes and input_shape"):
        LocalCertifier(nn.Flatten(), sigma=0.25)


def test_a_checkpoint_describes_itself(tmp_path, make_checkpoint):
    version = make_checkpoint(tmp_path / "digits", heads=2, sigma=0.5)
    certifier = LocalCertifier(tmp_path / "digits", precision="fp32", device="cpu", batch=64)
    answer = certifier.certify(PIXELS, n0=10, n=100)
    assert (answer.model, answer.model_version, answer.sigma) == ("digits", version, 0.5)
    assert len(answer.counts) == 10
    assert LocalCertifier(str(tmp_path / "digits"), sigma=0.12, precision="fp32", batch=64).sigma == 0.12


def test_importing_the_package_imports_no_torch():
    import subprocess
    import sys

    code = "import sys, spacte_workers; sys.exit('torch' in sys.modules or 'ray' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
