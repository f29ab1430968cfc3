"""Promise: `spacte diagnose` says what a model lacks, what to expect of certificates, and what to do next."""

import json

import numpy as np
import pytest
import torch
from torch import nn
from typer.testing import CliRunner

from spacte_core.data.digits import load_digits
from spacte_workers import LocalCertifier, save_model
from spacte_workers.diagnosis.cli import diagnose_app
from spacte_workers.diagnosis.files import read_diagnosis
from spacte_workers.diagnosis.measuring import LabelledImages, diagnose, expected_radius
from spacte_workers.images import from_array
from spacte_workers.serving.model_store import ModelStore

SHAPE = (1, 8, 8)


class Nearest(nn.Module):
    """Logits by distance to the mean digit of each class: right on most digits, noisy ones too."""

    def __init__(self, scale=1.0):
        super().__init__()
        images, labels = load_digits("train")[:2]
        flat = torch.from_numpy(np.asarray(images)).float().flatten(1) / 255
        labels = torch.as_tensor(np.asarray(labels))
        means = torch.stack([flat[labels == k].mean(0) for k in range(10)])
        self.f = nn.Linear(64, 10)
        self.f.weight.data, self.f.bias.data = scale * means, -scale * means.square().sum(1) / 2

    def forward(self, x):
        return self.f(x.flatten(1))


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    folder = tmp_path_factory.mktemp("models") / "nearest"
    save_model(Nearest(), folder, sigma=0.25, input_shape=SHAPE)
    return folder


def diagnosed(*arguments):
    return CliRunner().invoke(diagnose_app, [str(a) for a in arguments])


def test_it_is_printed_kept_and_shown_on_the_model_s_card(model):
    result = diagnosed(model, "--data", "digits", "--images", 60, "--noises", 50, "--device", "cpu", "--json")
    assert result.exit_code == 0, result.output
    found = json.loads(result.stdout)
    assert found["clean_accuracy"] > 0.8
    assert [level["sigma"] for level in found["levels"]] == [0.12, 0.25, 0.5, 1.0]
    accuracies = [level["noisy_accuracy"] for level in found["levels"]]
    assert accuracies == sorted(accuracies, reverse=True)
    assert found["images"] == 60
    assert "Serve it" in found["advice"][0]
    assert read_diagnosis(model).samples_per_second == found["samples_per_second"] > 0
    store = ModelStore(model.parent)
    store.scan()
    assert store.listing()[0].diagnosis.clean_accuracy == found["clean_accuracy"]
    save_model(Nearest(2.0), model, sigma=0.25, input_shape=SHAPE)  # another version, of which nothing is known
    store.scan()
    assert store.listing()[0].diagnosis is None


def test_the_radius_expected_is_the_one_that_a_certificate_has():
    """Here on one image with many noises, under so much of it that votes differ."""
    certifier = LocalCertifier(Nearest(), sigma=1.0, num_classes=10, input_shape=SHAPE, device="cpu")
    certificate = certifier.certify(load_digits("test")[0][0], n=20_000, n0=100, bound="clopper_pearson")
    share = np.array([max(certificate.counts) / certificate.n])
    assert 0.5 < share[0] < 0.99
    assert expected_radius(share, certificate.n, 1.0)[0] == pytest.approx(certificate.radius, abs=0.05)
    assert expected_radius(np.array([1.0]), 100, 0.25)[0] < expected_radius(np.array([1.0]), 10_000, 0.25)[0]


class UndefinedOnBright(nn.Module):
    def forward(self, x):
        undefined = (0.6 - x.mean(dim=(1, 2, 3))).sqrt() * 0  # NaN above .6, else 0
        return undefined[:, None] + torch.arange(4.0).flip(0)


def test_an_image_without_a_defined_answer_is_no_right_one():
    certifier = LocalCertifier(UndefinedOnBright(), sigma=0.25, num_classes=4, input_shape=SHAPE, device="cpu")
    images = [from_array(np.full(SHAPE, level, np.uint8), input_shape=SHAPE) for level in (50, 250)]
    found = diagnose(
        certifier.engine, LabelledImages(images, (0, 0), "two"), sigma=0.25, version="", noises=20, ladder=(0.25,)
    )
    assert (found.clean_accuracy, found.levels[0].noisy_accuracy) == (0.5, 0.5)


def test_what_is_only_guessing_or_fragile_is_told_what_to_do(model, tmp_path):
    class Guess(nn.Module):
        def forward(self, x):
            return x.flatten(1)[:, :10] * 0 + torch.arange(10.0)

    save_model(Guess(), tmp_path / "guess", sigma=0.25, input_shape=SHAPE)
    result = diagnosed(tmp_path / "guess", "--data", "digits", "--images", 50, "--noises", 20, "--device", "cpu")
    assert "hardly more than by guessing" in result.output
    save_model(Nearest(), tmp_path / "noisy", sigma=3.0, input_shape=SHAPE)
    result = diagnosed(tmp_path / "noisy", "--data", "digits", "--images", 50, "--noises", 20, "--device", "cpu")
    assert "--init MODEL" in result.output
    assert "At sigma" in result.output


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("--data", "nowhere"), "no data source|There is no"),
        (("--data", "digits", "--sigmas", "x"), "above 0"),
        (("--data", "cifar10:x"), ""),
    ],
)
def test_what_cannot_be_measured_is_one_sentence(model, arguments, words):
    result = diagnosed(model, *arguments)
    assert result.exit_code != 0
    assert "Traceback" not in result.output
    if words:
        import re

        assert re.search(words, result.output + str(result.exception))
