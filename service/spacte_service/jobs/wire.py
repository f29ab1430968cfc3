"""From rows of the store to what the API shows of a job."""

from typing import TYPE_CHECKING, cast

from pydantic import TypeAdapter

from spacte_client.types import Job, JobCounts, JobError, JobInput, JobParams, JobState

if TYPE_CHECKING:
    from spacte_service.store.schema import JobRow

ACTIVE = ("queued", "running")
"""States of jobs that stand still while nothing can be written."""

_INPUT: TypeAdapter[JobInput] = TypeAdapter(JobInput)


def job_of(row: "JobRow", *, stalled: bool = False) -> Job:
    """A job as the API shows it; `stalled`, while nothing can be written."""
    state = "stalled" if stalled and row.state in ACTIVE else row.state
    return Job(
        id=row.id,
        state=cast("JobState", state),
        counts=JobCounts(
            total=row.total,
            certified=row.certified,
            abstained=row.abstained,
            errored=row.errored,
            remaining=row.total - row.done,
        ),
        input=_INPUT.validate_python(row.input),
        base_job=row.base["id"] if row.base else None,
        model=row.model,
        model_version=row.model_version,
        input_sha256=row.source.get("sha256"),
        params=JobParams.model_validate(row.params),
        metadata=row.notes,
        created_at=row.created_at,
        started_at=row.started_at,
        ended_at=row.ended_at,
        error=JobError(code=row.error_code, detail=row.error_detail or "") if row.error_code else None,
        ray_submission_id=row.submission_id,
        results_url=f"/v1/jobs/{row.id}/results",
    )
