"""From the input that a caller names to what the driver opens: resolved, opened once, and counted."""

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from spacte_client.types import DatasetInput, FileInput, JobInput, Model
from spacte_service.callers import Caller
from spacte_service.problems import field_error
from spacte_service.settings import JobSettings
from spacte_service.uploads import Uploads

from .data_folder import DataFolder
from .remote_inputs import copy_input, fetch_input

if TYPE_CHECKING:
    from spacte_workers.batch.inputs import InputSpec
    from spacte_workers.decoding import Decoders


@dataclass(frozen=True, slots=True)
class CountedInput:
    """An input that can be certified."""

    asked: dict[str, Any]  # as the caller named it
    spec: "InputSpec"  # how the driver opens it
    total: int  # images
    file_id: str | None  # of the uploaded file, if it is one


def count_input(
    source: JobInput,
    model: Model,
    settings: JobSettings,
    uploads: Uploads,
    folder: DataFolder,
    caller: Caller,
    decoders: "Decoders",
) -> CountedInput:
    """Resolve an input, open it for the model in one of the `decoders`, and count its images. Call it in a thread.

    What is on another machine is copied into the data folder first, and so is everything where there is a storage.

    Raises ProblemError: 404, no such file; 422, not allowed, damaged, empty, or not for this model.
    """
    from spacte_workers.batch.inputs import InputError
    from spacte_workers.decoding import open_isolated

    try:
        spec = _resolve(source, settings, uploads, folder, caller)
        spec = replace(spec, label_column=source.label_column)
        opened = open_isolated(spec, model.input_shape, decoders, class_names=model.class_names)
        try:
            total, spec = len(opened.indices), replace(spec, sha256=opened.pin(None))
        finally:
            opened.close()
    except InputError as error:
        raise field_error("/input", str(error)) from None
    asked = source.model_dump(mode="json")
    return CountedInput(asked, spec, total, source.file_id if isinstance(source, FileInput) else None)


def _resolve(
    source: JobInput, settings: JobSettings, uploads: Uploads, folder: DataFolder, caller: Caller
) -> "InputSpec":
    from spacte_workers.batch.inputs import InputError, InputSpec, resolve_uri, scheme_of

    if isinstance(source, FileInput):
        return InputSpec("file", str(uploads.here(uploads.row(source.file_id, caller).sha256)))
    if isinstance(source, DatasetInput):
        return _dataset(source, settings)
    scheme, remote = scheme_of(source.uri) or "file", settings.remote_roots
    allowed = {scheme_of(root) for root in remote}
    if settings.roots:
        allowed.add("file")
    if allowed and scheme not in allowed:
        there = ", ".join(f"{name}:" for name in sorted(allowed))
        raise InputError(f"URIs of scheme {scheme[:20]!r} are not read here: use {there} or upload the file.")
    if scheme != "file" and scheme in allowed:
        return InputSpec("file", str(fetch_input(source.uri, remote, folder.fetched, settings.max_upload_bytes)))
    path = resolve_uri(source.uri, settings.roots)
    if folder.storage is not None:
        return InputSpec("file", str(copy_input(path, folder.fetched)))
    return InputSpec("file", str(path), roots=tuple(str(root) for root in settings.roots))


def _dataset(source: DatasetInput, settings: JobSettings) -> "InputSpec":
    from spacte_workers.batch.inputs import InputSpec

    known = settings.dataset_sources
    if source.name not in known:
        sentence = f"There is no data set {source.name[:64]!r} here; choose one of {', '.join(sorted(known))}."
        raise field_error("/input/name", sentence)
    root = str(settings.data_dir.resolve() / "datasets")
    options = source.model_dump(include={"split", "stride", "limit"})
    return InputSpec("dataset", known[source.name], data_root=root, **options)
