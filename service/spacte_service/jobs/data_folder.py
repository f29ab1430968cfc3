"""Where uploads and jobs are in the data folder, and how a driver is started on a job."""

import sys
import tempfile
import time
from collections.abc import Collection, Iterable
from pathlib import Path
from typing import TYPE_CHECKING, cast

from spacte_client.types import JobParams
from spacte_service.settings import JobSettings, SamplerSettings
from spacte_workers.serving.device_shares import BATCH_SHARE

if TYPE_CHECKING:
    from spacte_client.types import Precision
    from spacte_service.store.schema import JobRow
    from spacte_workers.batch.job_folder import JobFolder, JobSpec

PROBE_BYTES = 4096  # a page; of a full disk an empty file would still be made
FRESH_S = 3600.0  # a younger copy may be of a job that is being made; chosen: no request takes as long


class DataFolder:
    """The data folder.

    jobs/JOB_ID/                    see `spacte_workers.batch.job_folder`
    checkpoints/VERSION/NAME/       the models that jobs were begun with
    models/VERSION/NAME/            the models that were fetched
    files/                          uploads
    fetched/                        inputs of jobs that were named by a URI of another machine
    logs/                           what drivers of `--in-process` print
    """

    def __init__(self, path: Path) -> None:
        root = self.root = path.resolve()
        self.jobs = root / "jobs"
        self.uploads = root / "files"
        self.fetched = root / "fetched"
        self.logs = root / "logs"
        self.checkpoints = root / "checkpoints"
        self.models = root / "models"

    def check_writable(self) -> None:
        """Write something that is gone at once. Raises OSError: the disk is full, read-only or gone."""
        self.root.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=self.root, buffering=0) as file:
            file.write(bytes(PROBE_BYTES))

    def job(self, job_id: str) -> "JobFolder":
        """A job's folder."""
        from spacte_workers.batch.job_folder import JobFolder

        return JobFolder(self.jobs / job_id)

    def checkpoint(self, name: str, version: str) -> Path:
        """Where a job finds its model, whatever becomes of the models folder."""
        return self.checkpoints / version / name

    def prepare(self, row: "JobRow") -> None:
        """Make a job's folder from its row, if that has not been done."""
        folder = self.job(row.id)
        if folder.spec_file.exists():
            folder.cancel_file.unlink(missing_ok=True)
        else:
            folder.create(spec_of(row))


def unused(copies: Iterable[Path], used: Collection[str]) -> list[Path]:
    """Of these copies, those that can be deleted: no job has them, and no request has just made them."""
    old = time.time() - FRESH_S
    return [copy for copy in copies if str(copy) not in used and copy.stat().st_mtime < old]


def driver_command(row: "JobRow", folder: Path, jobs: JobSettings, samplers: SamplerSettings) -> list[str]:
    """The command line of a driver for a job's present attempt."""
    command = [sys.executable, "-m", "spacte_workers.batch.main", str(folder), "--attempt", str(row.attempt)]
    command += ["--min-agreement", repr(samplers.min_agreement)]
    if samplers.portable:
        command.append("--portable")
    if jobs.job_samplers_max is not None:
        command += ["--samplers", str(jobs.job_samplers_max)]
    if samplers.in_process:
        return [*command, "--pool", "local"]
    command += ["--at-least", str(jobs.job_samplers_min)]
    return [*command, "--share", f"{BATCH_SHARE / jobs.jobs_at_once:.4f}"]


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
