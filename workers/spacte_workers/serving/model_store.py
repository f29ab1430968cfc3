"""The models of a folder: which there are, which are served, and who is using which version right now.

A model has a *name* (its folder's) and a *version* (its checkpoint's SHA-256). Samplers know it by its *key*,
which holds both, so that two versions of one name can be loaded at once: a replacement is loaded and checked
under its own key, then the name is pointed at it, and the old version goes when its last request is answered.
"""

import asyncio
import base64
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from spacte_client.types import Model, Precision, Sample
from spacte_workers.certification.certificates import ModelIdentity
from spacte_workers.errors import ModelNotFoundError, ModelNotReadyError

if TYPE_CHECKING:
    from spacte_core.checkpoint import CheckpointConfig

ModelState = Literal["loading", "ready", "unloaded", "failed"]


@dataclass(eq=False)
class ServedModel:
    """One version of one model, as the samplers hold it.

    Attributes:
        name: the folder's name.
        version: SHA-256 over the checkpoint.
        folder: where the checkpoint is.
        config: what the checkpoint says about itself.
        precision, kernels: the arithmetic in which it votes, and what computes it, known once a sampler has loaded it.
    """

    name: str
    version: str
    folder: Path
    config: "CheckpointConfig"
    precision: Precision
    kernels: str
    _users: int = field(default=0, init=False)
    _idle: asyncio.Event = field(default_factory=asyncio.Event, init=False)

    @property
    def key(self) -> str:
        """What samplers call it."""
        return model_key(self.name, self.version)

    @property
    def identity(self) -> ModelIdentity:
        """What an answer says about the model."""
        return ModelIdentity(self.name, self.version, tuple(self.config.class_names), self.precision, self.kernels)

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
class Entry:
    """What is known of one name: the newest reading of its folder, and the version that answers, if any."""

    folder: Path
    config: "CheckpointConfig | None" = None
    version: str | None = None
    state: ModelState = "unloaded"
    reason: str = ""
    served: ServedModel | None = None


class ModelStore:
    """The checkpoints below a folder, by name.

    Args:
        folder: one checkpoint, or a folder whose sub-folders are checkpoints. A sub-folder that holds
            neither `config.json` nor `model.safetensors` is not a model; one whose files cannot be read is a
            failed model.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._entries: dict[str, Entry] = {}

    def scan(self) -> list[str]:
        """Read the folder again, and return the names in it, sorted.

        New checkpoints appear as `unloaded`, broken ones as `failed` with the reason; a name whose folder is
        gone disappears unless it is being served.
        """
        found = {folder.name: folder for folder in self._folders()}
        for name, folder in found.items():
            self._read(name, folder)
        for name in [name for name, entry in self._entries.items() if name not in found and not entry.served]:
            del self._entries[name]
        return sorted(found)

    def refresh(self, name: str) -> Entry:
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

    def entry(self, name: str) -> Entry:
        """What is known of a name.

        Raises:
            ModelNotFoundError: no model has this name.
        """
        try:
            return self._entries[name]
        except KeyError:
            raise self.unknown(name) from None

    def names(self) -> list[str]:
        """All names, sorted."""
        return sorted(self._entries)

    def served(self, name: str | None) -> ServedModel:
        """The version that answers for a name; for None the only served model.

        Raises:
            ModelNotFoundError: no such name, or none named where several are served.
            ModelNotReadyError: it is there, but not loaded; or none is named, and all are loading yet.
        """
        if name is None:
            name = self._only_one()
        entry = self.entry(name)
        if entry.served is None:
            raise ModelNotReadyError(_not_ready(name, entry), entry.state)
        return entry.served

    def all_served(self) -> list[ServedModel]:
        """Every version that answers now."""
        return [entry.served for entry in self._entries.values() if entry.served]

    def loading(self, name: str) -> None:
        """Say that a version of this name is being loaded. One that already answers goes on: it stays `ready`."""
        entry = self.entry(name)
        if entry.served is None:
            entry.state = "loading"

    def ready(self, name: str, served: ServedModel) -> ServedModel | None:
        """Point the name at a loaded version, and return the one that answered before."""
        entry = self.entry(name)
        before, entry.served = entry.served, served
        entry.state, entry.reason = "ready", ""
        return before

    def failed(self, name: str, reason: str) -> None:
        """Record why a version could not be loaded. One that already answers goes on answering."""
        entry = self.entry(name)
        entry.state, entry.reason = ("ready" if entry.served else "failed"), reason

    def unloaded(self, name: str) -> ServedModel | None:
        """Let the name answer no more, and return the version that did."""
        entry = self.entry(name)
        before, entry.served = entry.served, None
        entry.state, entry.reason = "unloaded", ""
        return before

    def reasons(self) -> dict[str, str]:
        """Why a model could not be loaded, by name."""
        return {name: entry.reason for name, entry in self._entries.items() if entry.reason}

    def listing(self) -> list[Model]:
        """Every model as the wire shows it, by name; one that cannot be read shows only name and state."""
        return [_on_the_wire(name, self._entries[name]) for name in self.names()]

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

    def unknown(self, name: str) -> ModelNotFoundError:
        """The error for a name that is not here."""
        there = ", ".join(self.names()) or "none"
        return ModelNotFoundError(f"There is no model called {name!r}: choose one of those served ({there}).")

    def _read(self, name: str, folder: Path) -> Entry:
        from spacte_core.checkpoint import CheckpointError, read_config

        entry = self._entries.setdefault(name, Entry(folder))
        try:
            entry.config, entry.version = read_config(folder)
        except CheckpointError as error:
            self.failed(name, str(error))
        else:
            entry.reason = ""
            if entry.state == "failed":
                entry.state = "unloaded"
        return entry

    def _only_one(self) -> str:
        served = [model.name for model in self.all_served()]
        if len(served) == 1:
            return served[0]
        if served:
            raise ModelNotFoundError(f"Several models are served: name one of {', '.join(sorted(served))}.")
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


def _not_ready(name: str, entry: Entry) -> str:
    match entry.state:
        case "loading":
            return f"Model {name} is still loading: try again in a moment."
        case "failed":
            return f"Model {name} could not be loaded: {entry.reason}"
        case _:
            return f"Model {name} is not loaded: load it first."


def _on_the_wire(name: str, entry: Entry) -> Model:
    served = entry.served
    config = served.config if served else entry.config
    if config is None:
        return Model(
            name=name,
            version="",
            arch="unknown",
            heads=0,
            method="unknown",
            sigmas=[],
            num_classes=0,
            class_names=[],
            input_shape=[],
            normalization="unknown",
            state=entry.state,
        )
    return Model(
        name=name,
        version=served.version if served else entry.version or "",
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
        state=entry.state,
        metrics=dict(config.metrics),
    )
