"""Where uploads and jobs are, in the data folder and in a storage, and how a driver is started on a job."""

import os
import shutil
import sys
import tempfile
import time
from collections.abc import Callable, Collection, Iterable
from pathlib import Path
from typing import TYPE_CHECKING, cast

from spacte_client.types import JobParams
from spacte_core.files import place_folder
from spacte_service.settings import JobSettings, SamplerSettings
from spacte_workers.serving.device_shares import BATCH_SHARE

if TYPE_CHECKING:
    from spacte_client.types import Precision
    from spacte_service.store.schema import JobRow
    from spacte_workers.batch.job_folder import JobFolder, JobSpec
    from spacte_workers.batch.object_store import ObjectStore
    from spacte_workers.batch.stored_folder import Attempts

PROBE_BYTES = 4096  # a page; of a full disk an empty file would still be made
CHECK_STORAGE_S = 30.0  # between two writes that only try a storage; chosen: a store counts what it is asked
FRESH_S = 3600.0  # a younger copy may be of a job that is being made; chosen: no request takes as long


class DataFolder:
    """The data folder; where there is a `storage`, it holds copies of what is there under the same names.

    jobs/JOB_ID/                    see `spacte_workers.batch.job_folder`
    checkpoints/VERSION/NAME/       the models that jobs were begun with
    models/VERSION/NAME/            the models that were fetched
    files/                          uploads
    fetched/                        inputs of jobs that were named by a URI of another machine
    logs/                           what drivers of `--in-process` print
    """

    def __init__(self, path: Path, storage: "ObjectStore | None" = None) -> None:
        self.storage = storage
        self._heard: Attempts | None = None
        self._storage_checked = -CHECK_STORAGE_S
        root = self.root = path.resolve()
        self.jobs = root / "jobs"
        self.uploads = root / "files"
        self.fetched = root / "fetched"
        self.logs = root / "logs"
        self.checkpoints = root / "checkpoints"
        self.models = root / "models"

    def check_writable(self) -> None:
        """Write something of no use. Raises OSError: disk or storage are full, read-only or gone."""
        self.root.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=self.root, buffering=0) as file:
            file.write(bytes(PROBE_BYTES))
        if self.storage is not None and time.monotonic() - self._storage_checked >= CHECK_STORAGE_S:
            self.storage.put("probe", b"")
            self._storage_checked = time.monotonic()

    def job(self, job_id: str) -> "JobFolder":
        """A job's folder."""
        from spacte_workers.batch.job_folder import JobFolder
        from spacte_workers.batch.stored_folder import StoredFolder

        if self.storage is None:
            return JobFolder(self.jobs / job_id)
        return StoredFolder(self.jobs / job_id, self.storage, self._attempts(self.storage))

    def _attempts(self, storage: "ObjectStore") -> "Attempts":
        if self._heard is None:
            from spacte_workers.batch.stored_folder import Attempts

            self._heard = Attempts(storage)
        return self._heard

    def spec(self, row: "JobRow") -> "JobSpec":
        """A job, as this machine has its files."""
        from spacte_workers.batch.stored_folder import with_paths

        return spec_of(row) if self.storage is None else with_paths(spec_of(row), self.root)

    def named(self, path: Path | str) -> str:
        """How a job's row names a file: as the storage does, whatever this gateway's folder is; else by its path."""
        inside = self.storage is not None and Path(path).is_relative_to(self.root)
        return self._name(Path(path)) if inside else str(path)

    def paths(self, names: Iterable[str]) -> set[str]:
        """The paths of files as rows name them."""
        return {str(self.root / name) for name in names}

    def keep(self, path: Path) -> None:
        """Have the storage keep a file, or a folder of files; what it has had for a while counts as new again."""
        if self.storage is None:
            return
        for file in [path] if path.is_file() else path.iterdir():
            name = self._name(file)
            written = self.storage.written(name)
            if written is None or written.timestamp() < time.time() - FRESH_S / 2:
                self.storage.upload(file, name)

    def keep_job(self, spec: "JobSpec") -> None:
        """Have the storage keep a job's model and images."""
        for path in _files(spec):
            if path.is_relative_to(self.root) and path.exists():
                self.keep(path)

    def restore(self, path: Path) -> None:
        """Copy a file, or a folder of files, from the storage unless it is here."""
        if self.storage is None or not path.is_relative_to(self.root):
            return
        if path.exists():
            os.utime(path)  # it is needed
            return
        names = self.storage.names(self._name(path))
        self.root.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=self.root) as scratch:
            for name in names:
                self.storage.download(name, Path(scratch) / name)
            if names:
                path.parent.mkdir(parents=True, exist_ok=True)
                place_folder(Path(scratch) / self._name(path), path)

    def restore_job(self, row: "JobRow") -> None:
        """Copy a job's model and images from the storage unless they are here."""
        for path in _files(self.spec(row)):
            self.restore(path)

    def delete(self, path: Path) -> None:
        """Delete a file, here and in the storage."""
        path.unlink(missing_ok=True)
        if self.storage is not None:
            self.storage.delete(self._name(path))

    def delete_unused(self, below: Path, used: Collection[str]) -> list[str]:
        """Of a folder, delete in the storage what is neither used nor new; the names of those deleted."""
        if self.storage is None:
            return []
        keep = {self._name(Path(path)) for path in used if Path(path).is_relative_to(self.root)}
        old = time.time() - FRESH_S
        deleted = [
            name
            for name, written in self.storage.names(self._name(below)).items()
            if written is not None and written.timestamp() < old and not keep & {name, name.rpartition("/")[0]}
        ]
        self.storage.delete(*deleted)
        return deleted

    def delete_copies(self, is_gone: Callable[[str], bool]) -> list[str]:
        """Where there is a storage, delete old copies here: of uploads that it has, and of jobs that are gone."""
        if self.storage is None:
            return []
        old = time.time() - FRESH_S
        uploads = [copy for copy in self.uploads.glob("??/*") if copy.stat().st_mtime < old]
        jobs = [copy for copy in self.jobs.glob("*") if copy.stat().st_mtime < old and is_gone(copy.name)]
        deleted = [copy for copy in uploads if self.storage.names(self._name(copy))] + jobs
        for copy in deleted:
            if copy.is_dir():
                shutil.rmtree(copy, ignore_errors=True)
            else:
                copy.unlink(missing_ok=True)
        return [self._name(copy) for copy in deleted]

    def _name(self, path: Path) -> str:
        """What a path of the data folder is called in the storage."""
        return path.relative_to(self.root).as_posix()

    def checkpoint(self, name: str, version: str) -> Path:
        """Where a job finds its model, whatever becomes of the models folder."""
        return self.checkpoints / version / name

    def prepare(self, row: "JobRow") -> None:
        """Make a job's folder from its row, if that has not been done."""
        folder = self.job(row.id)
        if folder.is_made():
            folder.withdraw_stop()
        else:
            spec = self.spec(row)
            self.keep_job(spec)
            folder.create(spec)


def unused(copies: Iterable[Path], used: Collection[str]) -> list[Path]:
    """Of these copies, those that can be deleted: no job has them, and no request has just made them."""
    old = time.time() - FRESH_S
    return [copy for copy in copies if str(copy) not in used and copy.stat().st_mtime < old]


def driver_command(row: "JobRow", folder: DataFolder, jobs: JobSettings, samplers: SamplerSettings) -> list[str]:
    """The command line of a driver for a job's present attempt."""
    place = str(folder.jobs / row.id) if folder.storage is None else f"{folder.storage.url}/jobs/{row.id}"
    command = [sys.executable, "-m", "spacte_workers.batch.main", place, "--attempt", str(row.attempt)]
    command += ["--min-agreement", repr(samplers.min_agreement)]
    if samplers.portable:
        command.append("--portable")
    if jobs.job_samplers_max is not None:
        command += ["--samplers", str(jobs.job_samplers_max)]
    if samplers.in_process:
        return [*command, "--pool", "local"]
    command += ["--at-least", str(jobs.job_samplers_min)]
    return [*command, "--share", f"{BATCH_SHARE / jobs.jobs_at_once:.4f}"]


def _files(spec: "JobSpec") -> list[Path]:
    """A job's model, and its images where they are a file."""
    return [Path(spec.checkpoint), *([Path(spec.input.location)] if spec.input.kind == "file" else [])]


def spec_of(row: "JobRow") -> "JobSpec":
    """What the driver needs to know of a job: a function of its row, so that any gateway writes the same."""
    from spacte_workers.batch.base_job import BaseJob
    from spacte_workers.batch.inputs import InputSpec
    from spacte_workers.batch.job_folder import JobSpec

    return JobSpec(
        id=row.id,
        model=row.model,
        model_version=row.model_version,
        checkpoint=row.checkpoint,
        precision=cast("Precision", row.precision),
        input=InputSpec.from_json(row.source),
        params=JobParams.model_validate(row.params | {"seed": row.seed}),
        seed_source="caller" if row.params.get("seed") else "service",
        base=BaseJob(**row.base) if row.base else None,
    )
