"""Two versions of a model at once: which one answers a request, and who takes over.

The first one answers for the name; beside it another may answer a share of the requests. Which one a request gets is a
function of its id and of the share alone: the same request asks the same version again, and while a share grows no
request goes back to the first version.
"""

import hashlib
import math
from collections.abc import Mapping

from spacte_client.types import VersionShare
from spacte_workers.errors import BadParameterError

from .served_model import ModelEntry, ServedModel

LEAST_PREFIX = 6  # digits of a version that name it; chosen: a dozen versions seldom share so many


def chosen(entry: ModelEntry, request_id: str) -> ServedModel | None:
    """The version that answers a request; None where none does."""
    if entry.beside is None or entry.served is None:
        return entry.served
    digest = hashlib.sha256(f"{entry.served.name}\n{request_id}".encode()).digest()
    return entry.beside if int.from_bytes(digest[:8], "big") < entry.share * 2**64 else entry.served


def shares(entry: ModelEntry) -> list[VersionShare]:
    """The versions that answer, and the share of each."""
    found: list[VersionShare] = []
    if entry.served is not None:
        rest = 1.0 - (entry.share if entry.beside else 0.0)
        found.append(VersionShare(version=entry.served.version, weight=rest, precision=entry.served.precision))
    if entry.beside is not None:
        found.append(VersionShare(version=entry.beside.version, weight=entry.share, precision=entry.beside.precision))
    return found


def stand_beside(entry: ModelEntry, model: ServedModel, share: float) -> ServedModel | None:
    """Have a loaded version answer a share of the requests; returns the one that did so before."""
    before, entry.beside = entry.beside, model
    entry.share = share
    return before


def divide(entry: ModelEntry, weights: Mapping[str, float]) -> ServedModel | None:
    """Divide the requests among the versions that are loaded; returns one that is not named, and so may go.

    Args:
        entry: of the model.
        weights: by version, or the first digits of one; in any unit.

    Raises:
        BadParameterError: a version is not loaded, or named twice, or the weights are none.
    """
    loaded = [model for model in (entry.served, entry.beside) if model is not None]
    named = [_named(loaded, version) for version in weights]
    if len(set(map(id, named))) < len(named) or not named:
        raise BadParameterError("weights", "Name each version once, as in {VERSION: 0.9, OTHER: 0.1}.")
    total = sum(weights.values())
    if not all(math.isfinite(weight) and weight >= 0 for weight in weights.values()) or not 0 < total < math.inf:
        raise BadParameterError("weights", "Weights are numbers from 0, and not all of them 0: 0.9 and 0.1, say.")
    share = {model.version: weight / total for model, weight in zip(named, weights.values(), strict=True)}
    gone = next((model for model in loaded if model.version not in share), None)
    if gone is not None:
        entry.served, entry.beside, entry.share = named[0], None, 0.0
    elif entry.beside is not None:
        entry.share = share[entry.beside.version]
    return gone


def _named(loaded: list[ServedModel], version: str) -> ServedModel:
    found = [model for model in loaded if len(version) >= LEAST_PREFIX and model.version.startswith(version)]
    if len(found) != 1:
        there = ", ".join(model.version[:12] for model in loaded) or "none"
        sentence = f"No version {version[:64]!r} is loaded: name one of {there} by {LEAST_PREFIX} digits or more."
        raise BadParameterError("weights", sentence)
    return found[0]
