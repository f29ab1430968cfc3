"""Uploads, jobs and the store that keeps them."""

from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import Field, field_validator, model_validator

from .group import Count, CountOrNone, Group, check_prefix, parts
from .limits import MIB, Bytes


class JobSettings(Group):
    """Where uploads and jobs are kept, what jobs may read, and how many run."""

    data_dir: Path = Path("spacte-data")
    """Folder of the database, uploads and jobs; the drivers of jobs must see it too."""
    job_storage: str | None = None
    """s3://bucket/prefix, or another URL that fsspec writes to, where uploads, models and results of jobs are kept;
    --data-dir then holds copies, and neither drivers nor other gateways need to see it."""
    job_drivers: Literal["head", "gateway"] = "head"
    """Machine that the drivers of jobs run on: the Ray head's, where they outlive a gateway and several gateways share
    --data-dir, or the gateway's own, so that no other machine needs to see the folder."""
    database: str | None = None
    """postgresql://... where several gateways share one; by default SQLite in --data-dir."""
    max_upload_bytes: Bytes = 2048 * MIB  # the parquet files of ImageNet's validation set have 0.5 GB each
    """Largest file that may be uploaded."""
    input_roots: str | None = None
    """Folders and prefixes such as s3://bucket/sets, separated by commas, below which jobs may
    name files by URI; none by default."""
    datasets: str | None = None
    """Data sets for jobs besides `digits`, as NAME=SOURCE,...: cifar10=parquet:/data/cifar10."""
    jobs_at_once: Count = 2  # chosen: a long job does not keep a short one waiting
    """Jobs that run at the same time; each has samplers of its own. Others wait."""
    job_samplers_min: Count = 1
    """Samplers that each job asks for even where there is no room, for Ray's autoscaler to see."""
    job_samplers_max: CountOrNone = None
    """Most samplers of one job; by default as many as there is room for."""
    resume_jobs: Literal["never", "interrupted", "always"] = "interrupted"
    """Jobs to carry on with by itself: those whose cluster went, or also whose driver died."""
    driver_restarts: Annotated[int, Field(ge=0)] = 3  # chosen: a fault that comes back each time is soon told
    """Drivers of a job that died of a fault and are started again by themselves, before the job has failed."""
    keep_jobs_days: Count = 30  # chosen: a month to fetch results
    """Jobs are deleted with their results so many days after their end."""

    @field_validator("datasets")
    @classmethod
    def _datasets_can_be_read(cls, text: str | None) -> str | None:
        for entry in filter(None, (text or "").split(",")):
            if not all(entry.partition("=")):
                raise ValueError(f"{entry!r} is not NAME=SOURCE")
        return text

    @field_validator("input_roots")
    @classmethod
    def _roots_can_be_read(cls, text: str | None) -> str | None:
        for root in parts(text):
            if "://" in root:
                check_prefix(root)
        return text

    @field_validator("job_storage")
    @classmethod
    def _storage_can_be_written(cls, url: str | None) -> str | None:
        if url is not None:
            if "://" not in url:
                raise ValueError(
                    f"--job-storage is a URL such as s3://bucket/prefix, not {url!r}; a folder is --data-dir"
                )
            check_prefix(url)
        return url and url.rstrip("/")

    @model_validator(mode="after")
    def _samplers_are_a_range(self) -> Self:
        if self.job_samplers_max is not None and self.job_samplers_max < self.job_samplers_min:
            raise ValueError("--job-samplers-max must not be below --job-samplers-min")
        return self

    @property
    def roots(self) -> list[Path]:
        """The folders of `input_roots`; colons may separate them, too, as in PATH."""
        folders = [root for root in parts(self.input_roots) if "://" not in root]
        return [Path(root).resolve() for folder in folders for root in folder.split(":") if root]

    @property
    def remote_roots(self) -> list[str]:
        """The prefixes of `input_roots`."""
        return [root for root in parts(self.input_roots) if "://" in root]

    @property
    def dataset_sources(self) -> dict[str, str]:
        """What jobs may name, and the source of each as `spacte train --data` takes it."""
        named = (entry.partition("=") for entry in filter(None, (self.datasets or "").split(",")))
        return {"digits": "digits"} | {name: source for name, _, source in named}

    @property
    def database_url(self) -> str:
        """The store's address."""
        return self.database or f"sqlite:///{self.sqlite_file}"

    @property
    def sqlite_file(self) -> Path:
        """The store, where it is no other database."""
        return self.data_dir.resolve() / "spacte.sqlite"
