"""The models of a folder: which there are, which are served, and how many requests use each version right now.

A model has a *name* (its folder's) and a *version* (its checkpoint's SHA-256). Samplers know it by its *key*, which
holds both, so that two versions of one name can be loaded at once: a replacement is loaded and checked under its own
key, then the name is pointed at it, and the old version is unloaded when its last request is answered.
"""

import asyncio
import base64
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from spacte_client.types import Diagnosis, ImageParams, Model, Precision, PredictParams, Sample
from spacte_workers.certification.certificates import ModelIdentity
from spacte_workers.certification.set_calibration import CALIBRATION_FILE, Calibration, load_calibration
from spacte_workers.diagnosis.files import read_diagnosis
from spacte_workers.endpoints.budget import check_budget
from spacte_workers.endpoints.remote import remote_of
from spacte_workers.errors import (
    BadParameterError,
    ModelLoadError,
    ModelNotFoundError,
    ModelNotNamedError,
    ModelNotReadyError,
    check_consensus,
)
from spacte_workers.images import BadImageError
from spacte_workers.shards import Image

from .signed_models import check_model_signature

if TYPE_CHECKING:
    from spacte_core.checkpoint import CheckpointConfig

ModelState = Literal["loading", "ready", "unloaded", "failed"]


@dataclass(eq=False)
class ServedModel:
    """One version of one model, as the samplers hold it.

    Attributes:
        name, version: the folder's name, and SHA-256 over the checkpoint.
        config: what the checkpoint says about itself.
        precision, kernels: arithmetic of its votes, and what computes them, as the samplers have loaded it.
        reference: the plain float32 network, once the samplers have loaded that, too.
    """

    name: str
    version: str
    config: "CheckpointConfig"
    precision: Precision
    kernels: str
    reference: ModelIdentity | None = field(default=None, init=False)
    _users: int = field(default=0, init=False)
    _idle: asyncio.Event = field(default_factory=asyncio.Event, init=False)

    @property
    def key(self) -> str:
        """What samplers call it."""
        return model_key(self.name, self.version)

    @property
    def reference_key(self) -> str:
        """What samplers call its plain float32 network."""
        return f"{self.key}/plain"

    @property
    def identity(self) -> ModelIdentity:
        """What an answer says about the model."""
        names, remote = tuple(self.config.class_names), remote_of(self.config.model.asked)
        return ModelIdentity(self.name, self.version, names, self.precision, self.kernels, remote)

    def check(self, params: ImageParams, image: Image) -> None:
        """See that the model takes this image and offers what is asked.

        Raises:
            BadImageError: the image does not have the model's input shape.
            BadParameterError: another sigma, more heads than there are, more noises than an endpoint's budget pays for,
                or grid noise for an image off the 8-bit grid.
        """
        expected, sigma = list(self.config.model.input_shape), self.config.sigma
        if list(image.shape) != expected:
            raise BadImageError(f"The image has shape {list(image.shape)}, but model {self.name} takes {expected}.")
        if params.sigma is not None and params.sigma != sigma:
            only = f"Model {self.name} is served at sigma {sigma:g} only"
            raise BadParameterError("sigma", f"{only}: ask for that, or leave it out.")
        if isinstance(params, PredictParams):
            check_consensus(params.k_consensus, self.config.model.heads, f"Model {self.name}")
            check_budget(params, self.config.model.asked)
        noise = params.noise if isinstance(params, PredictParams) else "grid"
        if noise == "grid" and image.dtype != "uint8":
            sentence = "Grid noise is for 8-bit images, and this one is between their steps: ask for float noise."
            raise BadParameterError("noise", sentence)

    @contextmanager
    def used(self) -> Generator["ServedModel"]:
        """Keep this version loaded while a request runs on it."""
        self._users += 1
        self._idle.clear()
        try:
            yield self
        finally:
            self._users -= 1
            if not self._users:
                self._idle.set()

    async def unused(self) -> None:
        """Wait until no request runs on this version."""
        if self._users:
            await self._idle.wait()


@dataclass
class ModelEntry:
    """What is known of one name: what its folder held when it was last read, and the version that answers, if any."""

    folder: Path
    config: "CheckpointConfig | None" = None
    version: str | None = None
    state: ModelState = "unloaded"
    reason: str = ""
    target: str | None = None
    served: ServedModel | None = None
    diagnosis: Diagnosis | None = None


class ModelStore:
    """The checkpoints below a folder, by name.

    Args:
        folder: one checkpoint, or a folder whose sub-folders are checkpoints. A sub-folder without `config.json` and
            `model.safetensors` is not a model; one whose files cannot be read is a failed model.
        signer: a public key as PEM; a folder that it has not signed, or that was changed since, is a failed model.
    """

    def __init__(self, folder: Path, signer: Path | None = None) -> None:
        self.folder = folder
        self._signer = signer
        self._entries: dict[str, ModelEntry] = {}

    def scan(self) -> list[str]:
        """Read the folder again, and return the names in it, sorted.

        New checkpoints appear as `unloaded`, broken ones as `failed` with the reason; a name whose folder is gone
        disappears unless it is being served.
        """
        found = {folder.name: folder for folder in self._folders()}
        for name, folder in found.items():
            self._read(name, folder)
        for name in [name for name, entry in self._entries.items() if name not in found and not entry.served]:
            del self._entries[name]
        return sorted(found)

    def refresh(self, name: str) -> ModelEntry:
        """Read the config and the version of one model again, without its weights.

        Where they cannot be read, the entry's `reason` says why; a version that answers goes on answering.

        Raises:
            ModelNotFoundError: no model of that name is or was in the folder.
        """
        folder = next((folder for folder in self._folders() if folder.name == name), None)
        if folder is not None:
            return self._read(name, folder)
        entry = self.entry(name)
        self.failed(name, f"{entry.folder} holds no checkpoint any more: put it back.")
        return entry

    def entry(self, name: str) -> ModelEntry:
        """What is known of a name.

        Raises:
            ModelNotFoundError: no model has this name.
        """
        if name not in self._entries:
            there = ", ".join(self.names()) or "none"
            raise ModelNotFoundError(f"There is no model called {name!r}: choose one of those served ({there}).")
        return self._entries[name]

    def names(self) -> list[str]:
        """All names, sorted."""
        return sorted(self._entries)

    def served(self, name: str | None) -> ServedModel:
        """The version that answers for a name; for None the only served model.

        Raises:
            ModelNotFoundError: no such name, or none named where several are served.
            ModelNotReadyError: it is there, but not loaded; or none is named, and all are still loading.
        """
        name = self._only_one() if name is None else name
        entry = self.entry(name)
        if entry.served is None:
            why = {
                "loading": "is still loading: try again in a moment.",
                "failed": f"is not served: {entry.reason}",
            }.get(entry.state, "is not loaded: load it first.")
            raise ModelNotReadyError(f"Model {name} {why}", entry.state)
        return entry.served

    def all_served(self) -> list[ServedModel]:
        """Every version that answers now."""
        return [entry.served for entry in self._entries.values() if entry.served]

    def loading(self, name: str, version: str) -> None:
        """A version of this name is being loaded; another one may answer meanwhile."""
        entry = self.entry(name)
        entry.target = version
        if entry.served is None:
            entry.state = "loading"

    def ready(self, name: str, served: ServedModel) -> ServedModel | None:
        """Point the name at a loaded version, and return the one that answered before."""
        entry = self.entry(name)
        before, entry.served = entry.served, served
        entry.state, entry.reason, entry.target = "ready", "", None
        return before

    def failed(self, name: str, reason: str) -> None:
        """Record why a version could not be loaded. If another one answers, it goes on answering."""
        entry = self.entry(name)
        entry.state, entry.reason, entry.target = ("ready" if entry.served else "failed"), reason, None

    def unloaded(self, name: str) -> ServedModel | None:
        """Stop answering under a name, and return the version that did."""
        entry = self.entry(name)
        before, entry.served = entry.served, None
        entry.state, entry.reason = "unloaded", ""
        return before

    def withdrawn(self, model: ServedModel, reason: str) -> bool:
        """Stop answering by a version that turned out to be faulty; False where another one answers already."""
        entry = self._entries.get(model.name)
        if entry is None or entry.served is not model:
            return False
        entry.served = None
        self.failed(model.name, reason)
        return True

    def listing(self) -> list[Model]:
        """Every model as the wire shows it, by name; one that cannot be read shows only name and state."""
        return [_on_the_wire(name, self._entries[name]) for name in self.names()]

    def calibration(self, model: ServedModel) -> Calibration:
        """What the prediction sets of a version rest on. It reads a file: call it in a thread.

        Raises:
            NotCalibratedError: there is none, or it is of another version or function.
        """
        folder = self.entry(model.name).folder
        calibration = load_calibration(folder)
        calibration.check(model_version=model.version, precision=model.precision, kernels=model.kernels)
        return calibration

    def samples(self, name: str) -> list[Sample]:
        """The held-out images in a model's folder, which the trainer leaves there; none where it did not.

        Raises:
            ModelNotFoundError: no model has this name.
        """
        entry = self.entry(name)
        names = entry.config.class_names if entry.config else ()
        found: list[Sample] = []
        for file in sorted((entry.folder / "samples").glob("*-*.png")):
            label = file.stem.rpartition("-")[2]
            if label.isdecimal() and int(label) < len(names):
                data = base64.b64encode(file.read_bytes()).decode()
                found.append(Sample(name=file.stem, label=int(label), label_name=names[int(label)], data=data))
        return found

    def _read(self, name: str, folder: Path) -> ModelEntry:
        from spacte_core.checkpoint import CheckpointError, read_config

        entry = self._entries.setdefault(name, ModelEntry(folder))
        try:
            entry.config, entry.version = read_config(folder)
            if self._signer is not None:
                check_model_signature(folder, self._signer)
        except (CheckpointError, ModelLoadError) as error:
            self.failed(name, str(error))
        else:
            entry.reason, entry.diagnosis = "", read_diagnosis(folder)
            if entry.state == "failed":
                entry.state = "unloaded"
        return entry

    def _only_one(self) -> str:
        served = [model.name for model in self.all_served()]
        if len(served) == 1:
            return served[0]
        if served:
            raise ModelNotNamedError(f"Several models are served: name one of {', '.join(sorted(served))}.")
        names = self.names()
        if len(names) == 1:
            return names[0]
        if any(entry.state == "loading" for entry in self._entries.values()):
            raise ModelNotReadyError("The models are still loading: try again in a moment.", "loading")
        raise ModelNotFoundError(f"No model is served: put a checkpoint folder into {self.folder} and load it.")

    def _folders(self) -> list[Path]:
        if _is_checkpoint(self.folder):
            return [self.folder.resolve()]
        if not self.folder.is_dir():
            return []
        return sorted(folder for folder in self.folder.iterdir() if folder.is_dir() and _is_checkpoint(folder))


def model_key(name: str, version: str) -> str:
    """The key of a version: readable in logs, and different for every version."""
    return f"{name}@{version}"


def _is_checkpoint(folder: Path) -> bool:
    return (folder / "config.json").exists() or (folder / "model.safetensors").exists()


def _on_the_wire(name: str, entry: ModelEntry) -> Model:
    served = entry.served
    config = served.config if served else entry.config
    if config is None:
        unknown = dict.fromkeys(("arch", "method", "normalization"), "unknown")
        state = {"state": entry.state, "reason": entry.reason or None, "target_version": entry.target}
        empty = {"heads": 0, "num_classes": 0, "sigmas": [], "class_names": [], "input_shape": []}
        return Model(name=name, version="", **state, **unknown, **empty)
    version = served.version if served else entry.version or ""
    return Model(
        name=name,
        version=version,
        arch=config.model.arch,
        heads=config.model.heads,
        method=config.method,
        sigmas=[config.sigma],
        num_classes=config.model.num_classes,
        class_names=list(config.class_names),
        input_shape=list(config.model.input_shape),
        normalization=config.model.normalization.kind,
        dataset=config.dataset,
        precision=served.precision if served else None,
        state="loading" if entry.target else entry.state,
        target_version=entry.target,
        reason=entry.reason or None,
        metrics=dict(config.metrics),
        calibrated=(entry.folder / CALIBRATION_FILE).exists(),
        diagnosis=entry.diagnosis if entry.diagnosis and entry.diagnosis.model_version == version else None,
    )
