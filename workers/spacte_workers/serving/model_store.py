"""The models of a folder: which there are, which are served, and how many requests use each version right now.

A model has a *name* (its folder's) and a *version* (its checkpoint's SHA-256). Samplers know it by its *key*, which
holds both, so that two versions of one name can be loaded at once: a replacement is loaded and checked under its own
key, then the name is pointed at it, and the old version is unloaded when its last request is answered.
"""

import base64
import time
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path

from spacte_client.types import Model, Sample
from spacte_core.hidden_names import is_hidden
from spacte_workers.certification.set_calibration import Calibration, load_calibration
from spacte_workers.diagnosis.files import read_diagnosis
from spacte_workers.errors import ModelLoadError, ModelNotFoundError, ModelNotNamedError, ModelNotReadyError
from spacte_workers.load_steps import LoadStep

from .model_sources import ModelSource, ModelSources, check_name
from .served_model import ModelEntry, ServedModel
from .signed_models import check_model_signature
from .traffic import chosen
from .wire import on_the_wire


class ModelStore:
    """The checkpoints below a folder, by name.

    Args:
        folder: one checkpoint, or a folder whose sub-folders are checkpoints. A sub-folder without `config.json` and
            `model.safetensors` is not a model; one whose files cannot be read is a failed model.
        signer: a public key as PEM; a folder that it has not signed, or that was changed since, is a failed model.
        sources: models that are fetched; of a name in both places it is the fetched one that counts.
    """

    def __init__(self, folder: Path, signer: Path | None = None, sources: ModelSources | None = None) -> None:
        self.folder = folder
        self._sources = sources
        self._signer = signer
        self._entries: dict[str, ModelEntry] = {}
        self._found = False
        self._pinned: dict[str, ServedModel] = {}

    def find(self) -> list[str]:
        """See which models there are, without reading them: they are all to be loaded.

        The lightest come first, and those that are to be fetched last.
        """
        found = sorted(self._folders(), key=lambda folder: (_weight(folder), folder.name))
        to_fetch = self._sources.names() if self._sources else []
        found += [self.folder / name for name in to_fetch if name not in [folder.name for folder in found]]
        for folder in found:
            entry = self._entries.setdefault(folder.name, ModelEntry(folder))
            entry.state, entry.since, entry.at_start = "loading", time.monotonic(), True
            entry.step = LoadStep("waiting", "waits for the loads before it")
        self._found = True
        return [folder.name for folder in found]

    def scan(self) -> list[str]:
        """Read the folder again, and return the names in it, sorted.

        New checkpoints appear as `unloaded`, broken ones as `failed` with the reason; a name whose folder is gone
        disappears unless it is being served.
        """
        found = {folder.name: folder for folder in self._folders()}
        self._found = True
        for name, folder in found.items():
            self._read(name, folder)
        for name in [
            name
            for name, entry in self._entries.items()
            if name not in found and not entry.served and not entry.step and not self._source(name)
        ]:
            del self._entries[name]
        return sorted(found)

    def refresh(self, name: str) -> ModelEntry:
        """Read the config and the version of one model again, without its weights.

        Where they cannot be read, the entry's `reason` says why; a version that answers goes on answering.

        Raises:
            ModelNotFoundError: no model of that name is or was in the folder.
        """
        if (source := self._source(name)) is not None:
            try:
                self.fetch(name, source)
            except ModelLoadError:
                return self.entry(name)
        folder = next((folder for folder in self._folders() if folder.name == name), None)
        if folder is not None:
            return self._read(name, folder)
        entry = self.entry(name)
        self.failed(name, f"{entry.folder} holds no checkpoint any more: put it back.")
        return entry

    def fetch(self, name: str, source: ModelSource) -> None:
        """Fetch a model, which is then what its name means; one that was unknown is known from now on.

        Raises:
            ModelLoadError: the source is not allowed or cannot be read, or holds another version; the entry says so.
        """
        if self._sources is None:
            raise ModelLoadError("Models are not fetched here: put the checkpoint into the folder of models.")
        check_name(name)
        self._sources.check(source)
        entry = self._entries.setdefault(name, ModelEntry(self._sources.place(name, source)))
        if not self._sources.place(name, source).is_dir():
            self.loading(name, source.version, LoadStep("waiting", f"is fetched from {source.uri}"))
        try:
            self._sources.fetch(name, source)
        except ModelLoadError as error:
            entry.failed(str(error))
            raise
        answering = {model.version for model in self.all_served()}
        coming = {entry.target for entry in list(self._entries.values()) if entry.target}
        self._sources.make_room(answering | coming)

    def entry(self, name: str) -> ModelEntry:
        """What is known of a name.

        Raises:
            ModelNotFoundError: no model has this name.
            ModelNotReadyError: the folder has not been looked at yet.
        """
        if not self._found:
            raise ModelNotReadyError("The service is starting: try again in a moment.", "loading")
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
        if name in self._pinned:
            return self._pinned[name]
        if name not in self._entries and name.partition("@")[0] in self._entries:
            name = name.partition("@")[0]  # a version that was withdrawn meanwhile
        entry = self.entry(name)
        if entry.served is None:
            how_far = f" ({entry.step})" if entry.step else ""
            why = {
                "loading": f"is still loading{how_far}: try again in a moment.",
                "failed": f"is not served: {entry.told_reason}",
            }.get(entry.state, "is not loaded: load it first.")
            raise ModelNotReadyError(f"Model {name} {why}", entry.state)
        return entry.served

    @contextmanager
    def pinned(self, name: str | None, request_id: str) -> Generator[str | None]:
        """The key of the version that answers a request, kept loaded and known by it while the block runs.

        `name` may itself be the key of a version that is loaded. Where none answers, `name` itself, so that `served`
        says why.
        """
        try:
            entry = self.entry(self.served(name).name)
            asked = (model for model in (entry.served, entry.beside) if model is not None and model.key == name)
            model = next(asked, None) or chosen(entry, request_id)
        except (ModelNotFoundError, ModelNotReadyError):
            model = None
        if model is None:
            yield name
            return
        with model.used():
            self._pinned[model.key] = model
            try:
                yield model.key
            finally:
                if model.users == 1:  # this request is the last
                    self._pinned.pop(model.key, None)

    def all_served(self) -> list[ServedModel]:
        """Every version that answers now."""
        return [model for entry in list(self._entries.values()) for model in (entry.served, entry.beside) if model]

    def loading(self, name: str, version: str, step: LoadStep) -> None:
        """A version of this name is being loaded; another one may answer meanwhile."""
        entry = self.entry(name)
        if entry.step is None:
            entry.since = time.monotonic()
        entry.target, entry.step = version, step
        if entry.served is None:
            entry.state = "loading"

    def still_loading(self) -> dict[str, str]:
        """How far each model is that the start waits for, by name."""
        return {name: str(entry.step) for name, entry in self._entries.items() if entry.step and entry.at_start}

    def ready(self, name: str, served: ServedModel) -> ServedModel | None:
        """Point the name at a loaded version, and return the one that answered before."""
        entry = self.entry(name)
        before, entry.served = entry.served, served
        entry.state, entry.reason = "ready", ""
        entry.loaded()
        return before

    def failed(self, name: str, reason: str) -> None:
        """Record why a version could not be loaded. If another one answers, it goes on answering."""
        self.entry(name).failed(reason)

    def unloaded(self, name: str) -> ServedModel | None:
        """Stop answering under a name, and return the version that did."""
        entry = self.entry(name)
        before, entry.served = entry.served, None
        entry.state, entry.reason = "unloaded", ""
        return before

    def alone(self, name: str) -> ServedModel | None:
        """Have the version that answers for a name do so alone; returns the one beside it."""
        entry = self.entry(name)
        before, entry.beside = entry.beside, None
        return before

    def withdrawn(self, model: ServedModel, reason: str) -> bool:
        """Stop answering by a version that turned out to be faulty; False where another one answers already."""
        entry = self._entries.get(model.name)
        self._pinned.pop(model.key, None)
        if entry is None or model not in (entry.served, entry.beside):
            return False
        if entry.beside is model:
            entry.beside = None
        else:
            entry.promote()
        self.failed(model.name, reason)
        return True

    def listing(self) -> list[Model]:
        """Every model as the wire shows it, by name; one that cannot be read shows only name and state."""
        return [on_the_wire(name, self._entries[name]) for name in self.names()]

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
            if not is_hidden(file.name) and label.isdecimal() and int(label) < len(names):
                data = base64.b64encode(file.read_bytes()).decode()
                found.append(Sample(name=file.stem, label=int(label), label_name=names[int(label)], data=data))
        return found

    def _read(self, name: str, folder: Path) -> ModelEntry:
        from spacte_core.checkpoint import CheckpointError, read_config

        entry = self._entries.setdefault(name, ModelEntry(folder))
        entry.folder = folder
        try:
            entry.config, entry.version = read_config(folder)
            if self._signer is not None:
                check_model_signature(folder, self._signer)
        except (CheckpointError, ModelLoadError) as error:
            self.failed(name, str(error))
        else:
            entry.reason, entry.diagnosis = "", read_diagnosis(folder)
            if entry.step is not None:
                entry.target = entry.version
            elif entry.state == "failed":
                entry.state = "unloaded"
        return entry

    def _only_one(self) -> str:
        served = sorted({model.name for model in self.all_served()})
        coming = ", ".join(self.still_loading())
        if served and coming:
            sentence = f"Models are still loading ({coming}): name one of {', '.join(served)}, or try again later."
            raise ModelNotReadyError(sentence, "loading")
        if len(served) == 1:
            return served[0]
        if served:
            raise ModelNotNamedError(f"Several models are served: name one of {', '.join(sorted(served))}.")
        names = self.names()
        if len(names) == 1:
            return names[0]
        if coming or not self._found:
            raise ModelNotReadyError("The models are still loading: try again in a moment.", "loading")
        raise ModelNotFoundError("No model is served: put a checkpoint folder into the folder of models and load it.")

    def _source(self, name: str) -> ModelSource | None:
        return self._sources.source(name) if self._sources else None

    def _folders(self) -> list[Path]:
        """Of the models, each name once, sorted."""
        found = {folder.name: folder for folder in _checkpoints(self.folder)}
        found |= {folder.name: folder for folder in (self._sources.folders() if self._sources else ())}
        return [found[name] for name in sorted(found)]


def _checkpoints(folder: Path) -> list[Path]:
    if _is_checkpoint(folder):
        return [folder.resolve()]
    if not folder.is_dir():
        return []
    found = (each for each in folder.iterdir() if each.is_dir() and not is_hidden(each.name))
    return [each for each in found if _is_checkpoint(each)]


def _is_checkpoint(folder: Path) -> bool:
    return (folder / "config.json").exists() or (folder / "model.safetensors").exists()


def _weight(folder: Path) -> int:
    try:
        return (folder / "model.safetensors").stat().st_size
    except OSError:
        return 0
