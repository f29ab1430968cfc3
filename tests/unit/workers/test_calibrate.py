"""Promise: `spacte calibrate` makes prediction sets possible, and only for the very function that was calibrated."""

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from spacte_core.data.digits import load_digits
from spacte_workers import LocalCertifier
from spacte_workers.calibrate import calibrate_app
from spacte_workers.certification.set_calibration import CALIBRATION_FILE
from spacte_workers.errors import BadParameterError, NotCalibratedError

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def calibrated(tmp_path_factory: pytest.TempPathFactory, make_checkpoint: Callable[..., str]) -> tuple[Path, dict]:
    """A calibrated checkpoint, and what the command printed."""
    folder = tmp_path_factory.mktemp("sets") / "digits"
    make_checkpoint(folder)
    options = ["--data", "digits", "--split", "train", "--images", "400", "--noises", "60", "--precision", "fp32"]
    done = CliRunner().invoke(calibrate_app, [str(folder), *options, "--json"])
    assert done.exit_code == 0, done.output
    return folder, json.loads(done.output)


def test_sets_cover_the_truth_of_images_that_were_held_out(calibrated: tuple[Path, dict]) -> None:
    folder, told = calibrated
    assert (told["images"], told["noises"]) == (400, 60)
    certifier = LocalCertifier(folder, precision="fp32")
    images, labels = load_digits("test")
    for method, samples in (("rcp1", 1), ("bincp", 60)):
        sets = [certifier.predict_set(image, alpha=0.2, radius=0.05, method=method) for image in images[:150]]
        covered = np.mean([label in found.labels for label, found in zip(labels, sets, strict=False)])
        assert covered > 0.8 - 4 * np.sqrt(0.16 * (1 / 150 + 1 / 400))
        assert {found.samples for found in sets} == {samples}
        assert sets[0].calibration.images == 400


def test_larger_radii_and_smaller_alphas_give_larger_sets(calibrated: tuple[Path, dict]) -> None:
    certifier = LocalCertifier(calibrated[0], precision="fp32")
    image = load_digits("test")[0][0]
    seed = "0" * 32

    def size(alpha: float, radius: float) -> int:
        return len(certifier.predict_set(image, alpha=alpha, radius=radius, seed=seed).labels)

    assert size(0.3, 0.0) <= size(0.3, 0.1) <= size(0.3, 0.3) <= size(0.01, 0.3) == 10
    with pytest.raises(BadParameterError, match="radius"):
        certifier.predict_set(image, alpha=0.3, radius=-1.0)


def test_another_function_is_not_calibrated(
    calibrated: tuple[Path, dict], tmp_path: Path, make_checkpoint: Callable[..., str]
) -> None:
    folder = tmp_path / "other"
    make_checkpoint(folder, seed=1)
    image = load_digits("test")[0][0]
    with pytest.raises(NotCalibratedError, match="spacte calibrate"):
        LocalCertifier(folder, precision="fp32").predict_set(image, radius=0.1)
    (folder / CALIBRATION_FILE).write_bytes((calibrated[0] / CALIBRATION_FILE).read_bytes())
    with pytest.raises(NotCalibratedError, match="model_version"):
        LocalCertifier(folder, precision="fp32").predict_set(image, radius=0.1)
    (folder / CALIBRATION_FILE).write_bytes(b"PK damaged")
    with pytest.raises(NotCalibratedError, match="cannot be read"):
        LocalCertifier(folder, precision="fp32").predict_set(image, radius=0.1)


def test_too_few_labels_are_one_sentence(tmp_path: Path, make_checkpoint: Callable[..., str]) -> None:
    folder = tmp_path / "digits"
    make_checkpoint(folder)
    np.savez(tmp_path / "few.npz", images=np.zeros((4, 1, 8, 8), np.uint8), labels=np.arange(4))
    done = CliRunner().invoke(calibrate_app, [str(folder), "--data", str(tmp_path / "few.npz")])
    assert done.exit_code == 1
    assert "at least 10" in str(done.exception)
