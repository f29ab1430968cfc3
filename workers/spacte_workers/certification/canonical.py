"""The canonical request: everything that a caller asked and everything that votes, as one line of text.

Only `expected` is not in it: it can do no more than turn an answer into an abstention, and must not be a way to other
noises.

Its SHA-256 enters the key of the noise (`noise.philox`). So whoever restates a rule once the votes are known, such as
`n_max` or `alpha`, names other noises, and a replay shows it. docs/guarantees.md has the format byte for byte.
"""

import hashlib
import hmac
import json
from dataclasses import replace
from decimal import Decimal
from typing import TypeVar

from spacte_client.types import Certificate

from .algorithm import CertifySpec
from .certificates import KERNELS, SCHEMA_VERSION, ModelIdentity
from .prediction import PredictSpec

Value = str | int | float | bool | None
Spec = TypeVar("Spec", CertifySpec, PredictSpec)


def canonical(request: dict[str, Value]) -> bytes:
    """One JSON object: sorted names, no spaces, ASCII; each value is a string or null.

    A whole number is its digits, another number the shortest decimal that reads back as the same double, without an
    exponent or trailing zeros.
    """
    texts = {name: _text(value) for name, value in request.items()}
    return json.dumps(texts, sort_keys=True, separators=(",", ":")).encode("ascii")


def digest(request: dict[str, Value]) -> str:
    """SHA-256 of the canonical request, 64 hex digits."""
    return hashlib.sha256(canonical(request)).hexdigest()


def request_of(spec: CertifySpec | PredictSpec, model: ModelIdentity, image_sha256: str) -> dict[str, Value]:
    """What is asked of which function about which image. What a prediction does not know is null."""
    rules: dict[str, Value] = dict.fromkeys(("bound", "deadline", "n0", "target_radius", "tolerance"))
    if isinstance(spec, CertifySpec):
        rules = {name: getattr(spec, name) for name in rules}
        if spec.certify is not None:
            rules["certify"] = spec.certify
    return rules | {
        "alpha": spec.alpha,
        "image_index": spec.noise_source.image_index,
        "image_sha256": image_sha256,
        "k_consensus": spec.k_consensus,
        "kernels": model.kernels,
        "model": model.name,
        "model_version": model.version,
        "n_max": spec.n_max if isinstance(spec, CertifySpec) else spec.n,
        "noise": spec.noise,
        "precision": model.precision,
        "seed_source": spec.seed_source,
        "sigma": spec.sigma,
        "version": SCHEMA_VERSION,
    }


def request_in(certificate: Certificate) -> dict[str, Value]:
    """The same, as a certificate states it; of a carried one, as `carrying.voted_by` has it."""
    c = certificate
    names = ("alpha", "image_index", "image_sha256", "k_consensus", "model", "model_version", "n0", "n_max", "noise")
    stated: dict[str, Value] = {name: getattr(c, name) for name in (*names, "precision", "seed_source", "sigma")}
    rules: dict[str, Value] = {
        "target_radius": c.target_radius,
        "tolerance": c.tolerance,
        "deadline": c.deadline_ms is not None,
    }
    if c.carried is not None and c.carried.certificate is None:
        rules["certify"] = "fp32"
    return stated | rules | {"bound": c.bound_requested, "kernels": c.versions.get(KERNELS), "version": SCHEMA_VERSION}


def pairs_request(counted: str, about: ModelIdentity, pairs: int) -> dict[str, Value]:
    """What is asked of two functions: to vote on so many of the same noises.

    Args:
        counted: digest of the request whose votes are carried over.
        about: the function that they are carried over to.
        pairs: how many noises.
    """
    return {
        "counted": counted,
        "kernels": about.kernels,
        "model": about.name,
        "model_version": about.version,
        "pairs": pairs,
        "precision": about.precision,
        "version": SCHEMA_VERSION,
    }


def bound_to_noise(spec: Spec, model: ModelIdentity, image_sha256: str, seed_secret: bytes | None = None) -> Spec:
    """The specification with its canonical request in the key of its noise.

    Args:
        spec, model, image_sha256: what is asked of which function about which image.
        seed_secret: makes a seed that the service draws a function of the request (HMAC-SHA-256), so that asking again
            gives the same votes.
    """
    request = request_of(spec, model, image_sha256)
    seed = spec.seed
    if seed_secret is not None and spec.seed_source == "service":
        seed = hmac.new(seed_secret, canonical(request), hashlib.sha256).hexdigest()[: len(seed)]
    return replace(spec, seed=seed, request_digest=digest(request))


def _text(value: Value) -> str | None:
    if value is None or isinstance(value, str):
        return value
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, int):
        return str(value)
    text = f"{Decimal(repr(value)):f}"
    return text.rstrip("0").rstrip(".") if "." in text else text
