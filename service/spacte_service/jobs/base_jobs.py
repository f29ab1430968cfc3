"""From the id of a job to what a job that carries its certificates over needs of it."""

import os
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from spacte_client.types import Model
from spacte_service.problems import ProblemError, field_error

if TYPE_CHECKING:
    from spacte_service.store.schema import JobRow
    from spacte_workers.batch.job_folder import JobSpec


def base_columns(row: "JobRow") -> dict[str, Any]:
    """What is kept of a base job."""
    from spacte_workers.batch.base_job import BaseJob

    base = BaseJob(row.id, row.model, row.model_version, row.checkpoint, row.done, row.results_sha256)
    return asdict(base)


def check_base(row: "JobRow", spec: "JobSpec", model: Model) -> None:
    """See that a job's certificates can be carried over to a model.

    Raises ProblemError: 409, it has not succeeded, or its model is gone; 422, the model is of another kind.
    """
    from spacte_core.checkpoint import CheckpointError, read_config

    if row.state != "succeeded":
        raise ProblemError("job_state", f"{row.id} is {row.state}: wait until it has succeeded, or resume it.")
    try:
        config, _ = read_config(Path(spec.checkpoint))
    except CheckpointError as error:
        raise ProblemError("job_state", f"The model of {row.id} is not there any more: {error}") from None
    os.utime(spec.checkpoint)  # so that it is not deleted before the new job is in the store
    before = list(config.model.input_shape), list(config.class_names), [config.sigma]
    if before != (list(model.input_shape), list(model.class_names), list(model.sigmas)):
        sentence = (
            f"{model.name} takes other images, has other classes or another sigma than the model of {row.id}: certify "
            "its images by a job of their own."
        )
        raise field_error("/model", sentence)
