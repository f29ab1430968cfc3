"""Promise: the noise follows from the request as docs/guarantees.md says, for whoever implements that page alone."""

import hashlib
import json
import re
from pathlib import Path

import pytest
import torch

from spacte_client.types import CertifyParams, PredictParams
from spacte_workers.certification.algorithm import CertifySpec
from spacte_workers.certification.canonical import bound_to_noise, canonical, digest, request_of
from spacte_workers.certification.certificates import ModelIdentity
from spacte_workers.certification.prediction import PredictSpec
from spacte_workers.noise import philox
from spacte_workers.shards import NoiseSource, Phase

PAGE = (Path(__file__).parents[4] / "docs" / "guarantees.md").read_text()
SHA256 = "66a81bc72aba560adff8d996d447b91bad69c713178941c7afef28b7654fd11b"
MODEL = ModelIdentity("digits", "0" * 64, ("a", "b"), "fp32", "winograd/avx512_bf16")
SEED = "c0ffee00" * 4
KNOWN = {"sigma": 0.5, "num_classes": 2, "seed": SEED}


def stated(row):
    return re.search(rf"\| {row} \| `([^`]+)` \|", PAGE)[1]


def example():
    return re.search(r"```json canonical\n(.*)\n```", PAGE)[1].encode()


def words(request, phase, sample, block):
    """The page in a few lines: plain integers, no code of ours."""
    parts = [
        b"spacte noise 2",
        b"grid",
        bytes.fromhex(SEED),
        b"0",
        str(phase).encode(),
        hashlib.sha256(request).digest(),
    ]
    named = hashlib.sha256(b"|".join(parts)).digest()
    k0, k1, c2, c3 = (int.from_bytes(named[4 * i : 4 * i + 4], "little") for i in range(4))
    a, b, c, d = block, sample, c2, c3
    for i in range(10):
        first, second = 0xD2511F53 * a, 0xCD9E8D57 * c
        x, y = (k0 + i * 0x9E3779B9) % 2**32, (k1 + i * 0xBB67AE85) % 2**32
        a, b, c, d = (second >> 32) ^ b ^ x, second % 2**32, (first >> 32) ^ d ^ y, first % 2**32
    return (k0, k1, c2, c3), (a, b, c, d)


def test_the_worked_example():
    spec = CertifySpec.from_params(CertifyParams(n=10_000), shape=(1, 8, 8), **KNOWN)
    assert canonical(request_of(spec, MODEL, SHA256)) == example()
    named, first = words(example(), 1, 0, 0)
    assert stated("SHA-256 of the request") == hashlib.sha256(example()).hexdigest()
    for row, value in (("k0, k1, c2, c3", named), ("words of sample 0, block 0", first)):
        assert stated(row) == " ".join(f"{word:08x}" for word in value)
    assert stated("words of sample 1, block 0") == " ".join(f"{word:08x}" for word in words(example(), 1, 1, 0)[1])


def test_our_noise_is_the_pages():
    source = NoiseSource(SEED, 0, 0.5, "grid", request_digest=hashlib.sha256(example()).hexdigest())
    named, _ = words(example(), 1, 0, 0)
    assert philox.stream_words(source, Phase.ESTIMATION) == named
    rows = philox.row_names(source, Phase.ESTIMATION, 5, 7)
    ours = torch.stack(philox.words(rows, torch.arange(3).unsqueeze(0)), dim=-1)
    for sample in (5, 6):
        for block in range(3):
            assert tuple(ours[sample - 5, block].tolist()) == words(example(), 1, sample, block)[1]


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (1e-12, "0.000000000001"),
        (0.1, "0.1"),
        (2.0, "2"),
        (100, "100"),
        (1e6, "1000000"),
        (0.25, "0.25"),
        (True, "true"),
    ],
)
def test_numbers_are_plain_decimals(value, text):
    assert json.loads(canonical({"a": value})) == {"a": text}


def test_a_prediction_has_no_rules():
    spec = PredictSpec.from_params(PredictParams(n=500), **KNOWN)
    request = request_of(spec, MODEL, SHA256)
    assert {name for name, value in request.items() if value is None} == {
        "bound", "deadline", "k_consensus", "n0", "target_radius", "tolerance"
    }  # fmt: skip
    assert request["n_max"] == 500
    assert bound_to_noise(spec, MODEL, SHA256).noise_source.request_digest == digest(request)


def test_a_secret_makes_the_seed_a_function_of_the_request():
    def seed_of(secret=b"s" * 32, sha256=SHA256, seed_source="service", **params):
        known = {**KNOWN, "seed": hashlib.sha256(repr(params).encode()).hexdigest()[:32]}
        spec = CertifySpec.from_params(CertifyParams(**params), shape=(1, 8, 8), seed_source=seed_source, **known)
        return bound_to_noise(spec, MODEL, sha256, secret).seed

    assert seed_of(n=100) == seed_of(n=100)
    others = {seed_of(n=100), seed_of(n=101), seed_of(n=100, sha256="1" * 64), seed_of(b"t" * 32, n=100)}
    assert len(others) == 4
    assert re.fullmatch("[0-9a-f]{32}", seed_of(n=100))
    assert seed_of(n=100, seed_source="caller") != seed_of(n=100)
