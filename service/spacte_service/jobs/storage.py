"""Where jobs live in the data folder, and how a driver is started on one."""

import sys
from pathlib import Path
from typing import TYPE_CHECKING, cast

from spacte_client.types import CertifyParams
from spacte_service.settings import Settings
from spacte_workers.serving.device_shares import BATCH_SHARE

if TYPE_CHECKING:
    from spacte_client.types import Precision
    from spacte_service.store.schema import JobRow
    from spacte_workers.batch.job_folder import JobFolder, JobSpec


class Workplace:
    """The data folder, as far as jobs are concerned.

        jobs/JOB_ID/                    see `spacte_workers.batch.job_folder`
        checkpoints/VERSION/NAME/       the models that jobs were begun with
        files/                          uploads
        fetched/                        inputs of jobs that were named by a URI of another machine

    Args:
        settings: the gateway's.
    """

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._root = settings.data_dir.resolve()
        self.uploads = self._root / "files"
        self.fetched = self._root / "fetched"
        self.logs = self._root / "logs"
        self.checkpoints = self._root / "checkpoints"

    def folder(self, job_id: str) -> "JobFolder":
        """A job's folder."""
        from spacte_workers.batch.job_folder import JobFolder

        return JobFolder(self._root / "jobs" / job_id)

    def checkpoint(self, name: str, version: str) -> Path:
        """Where a job finds its model, whatever becomes of the models folder."""
        return self.checkpoints / version / name

    def prepare(self, row: "JobRow") -> None:
        """Make a job's folder from its row, if that has not been done."""
        folder = self.folder(row.id)
        if folder.spec_file.exists():
            folder.cancel_file.unlink(missing_ok=True)
            return
        folder.create(spec_of(row))

    def command(self, row: "JobRow") -> list[str]:
        """The command line of a driver for a job's present attempt."""
        command = [sys.executable, "-m", "spacte_workers.batch.main", str(self.folder(row.id).path)]
        command += ["--attempt", str(row.attempt)]
        command += ["--min-agreement", repr(self._settings.min_agreement)]
        most = self._settings.job_samplers_max
        if most is not None:
            command += ["--samplers", str(most)]
        if self._settings.in_process:
            return [*command, "--pool", "local"]
        command += ["--at-least", str(self._settings.job_samplers_min)]
        return [*command, "--share", f"{BATCH_SHARE / self._settings.jobs_at_once:.4f}"]


def spec_of(row: "JobRow") -> "JobSpec":
    """What the driver needs to know of a job: a function of its row, so that any gateway writes the same."""
    from spacte_workers.batch.inputs import InputSpec
    from spacte_workers.batch.job_folder import JobSpec

    params = CertifyParams.model_validate(row.params | {"seed": row.seed})
    return JobSpec(
        id=row.id,
        model=row.model,
        model_version=row.model_version,
        checkpoint=row.checkpoint,
        precision=cast("Precision", row.precision),
        input=InputSpec.from_json(row.source),
        params=params,
    )
