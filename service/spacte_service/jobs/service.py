"""What the API can do with jobs: create, look, cancel, resume, delete. The reconciler does the rest."""

import hashlib
import secrets
import shutil
from datetime import UTC, datetime
from functools import partial
from typing import TYPE_CHECKING, Any

from spacte_client.types import (
    RESUMABLE_STATES,
    TERMINAL_STATES,
    CertifyParams,
    Job,
    JobList,
    JobRequest,
    JobState,
    Model,
)
from spacte_service.backend import Backend
from spacte_service.files import Uploads
from spacte_service.ids import new_id
from spacte_service.problems import ProblemError, field_error
from spacte_service.settings import Settings

from .checkpoints import keep_checkpoint
from .inputs import Counted, look_into
from .storage import Workplace
from .wire import job_of

if TYPE_CHECKING:
    from spacte_service.store import Store
    from spacte_service.store.idempotency import Claim
    from spacte_service.store.schema import JobRow


class JobService:
    """Jobs of one store. Everything here blocks: call it in threads.

    Args:
        settings: the gateway's.
        backend: knows the models.
        store: where jobs are written down.
        uploads: the uploaded files.
        workplace: the data folder.
    """

    def __init__(
        self, settings: Settings, backend: Backend, store: "Store", uploads: Uploads, workplace: Workplace
    ) -> None:
        self._settings = settings
        self._backend = backend
        self._store = store
        self._uploads = uploads
        self._workplace = workplace

    def create(self, request: JobRequest, caller: str, key: str | None) -> tuple[Job, bool]:
        """A new job, or the one that an earlier request with the same key made.

        Args:
            request: what is asked, within the operator's limits.
            caller: keys of different callers are different keys.
            key: the `Idempotency-Key`, if there is one.

        Returns:
            The job, and whether it is an earlier one.

        Raises:
            ProblemError: something about the request cannot be; nothing is made then.
        """
        claim = None if key is None else self._claim(request, caller, key)
        if isinstance(claim, dict):
            return Job.model_validate(claim), True
        try:
            return self._create(request, claim), False
        except BaseException:
            if claim is not None:
                self._store.idempotency.drop(claim)
            raise

    def get(self, job_id: str) -> "JobRow":
        """One job.

        Raises:
            ProblemError: 404.
        """
        row = self._store.jobs.get(job_id)
        if row is None:
            raise missing(job_id)
        return row

    def page(self, limit: int, after: str | None, state: JobState | None) -> JobList:
        """Jobs, newest first.

        Raises:
            ProblemError: 404, there is no job `after`.
        """
        from spacte_service.store.sessions import CursorError

        try:
            rows, more = self._store.jobs.page(limit, after, state)
        except CursorError:
            raise missing(after or "") from None
        data = [job_of(row) for row in rows]
        first, last = (data[0].id, data[-1].id) if data else (None, None)
        return JobList(data=data, has_more=more, first_id=first, last_id=last)

    def cancel(self, job_id: str) -> Job:
        """Ask a job to stop; what it finished stays.

        Raises:
            ProblemError: 404; 409, it is at its end.
        """
        while True:
            row = self.get(job_id)
            if row.state in TERMINAL_STATES:
                raise ProblemError("job_state", f"{job_id} has {row.state}; there is nothing to cancel.")
            folder = self._workplace.folder(job_id)
            if folder.path.exists():
                folder.cancel_file.touch()
            if row.state == "cancelling":
                return job_of(row)
            moved = self._store.jobs.move(row, "cancelling")
            if moved is not None:
                return job_of(moved)

    def resume(self, job_id: str) -> Job:
        """Carry on with a job where it stopped; its finished images are not certified again.

        Raises:
            ProblemError: 404; 409, it is not stopped, or what it needs is gone.
        """
        while True:
            row = self.get(job_id)
            if row.state not in RESUMABLE_STATES:
                sentence = f"{job_id} is {row.state}; only one that failed, was cancelled or interrupted is resumed."
                raise ProblemError("job_state", sentence)
            self._check_input(row)
            moved = self._store.jobs.move(row, "queued", **next_attempt(row))
            if moved is not None:
                return job_of(moved)

    def remove(self, job_id: str) -> None:
        """Delete a job with its results.

        Raises:
            ProblemError: 404; 409, it is not at its end.
        """
        if not self._store.jobs.remove(job_id):
            row = self.get(job_id)
            raise ProblemError("job_state", f"{job_id} is {row.state}; cancel it first.")
        shutil.rmtree(self._workplace.folder(job_id).path, ignore_errors=True)

    def _claim(self, request: JobRequest, caller: str, key: str) -> "Claim | dict[str, Any]":
        from spacte_service.store.idempotency import InProgressError, MismatchError

        digest = hashlib.sha256(request.model_dump_json().encode()).hexdigest()
        try:
            return self._store.idempotency.claim(caller, key, digest)
        except InProgressError:
            sentence = "The first request with this Idempotency-Key is still running; try again in a moment."
            raise ProblemError("idempotency_in_progress", sentence, retry_after_s=1.0) from None
        except MismatchError:
            sentence = "This Idempotency-Key was used with another request; take a new key for a new request."
            raise ProblemError("idempotency_mismatch", sentence) from None

    def _create(self, request: JobRequest, claim: "Claim | None") -> Job:
        from spacte_service.store.idempotency import InProgressError
        from spacte_service.store.jobs import FileGoneError

        model = self._model(request.model)
        _check_params(request.params, model)
        counted = look_into(request.input, model, self._settings, self._store, self._uploads, self._workplace.fetched)
        place = self._workplace.checkpoint(model.name, model.version)
        keep_checkpoint(self._settings.models, model.name, model.version, place)
        row = _row(request, model, counted, str(place))
        add = partial(self._store.jobs.add, row, claim, job_of(row).model_dump(mode="json"))
        try:
            add()
        except FileGoneError:
            raise field_error("/input/file_id", "The file was deleted just now; upload it again.") from None
        except InProgressError:
            sentence = "Another request with this Idempotency-Key has taken over; try again in a moment."
            raise ProblemError("idempotency_in_progress", sentence, retry_after_s=1.0) from None
        return job_of(row)

    def _model(self, name: str | None) -> Model:
        """The model that a job is about; it must be served, so that its precision is known.

        Raises:
            ProblemError: 404; 503, it is loading.
        """
        models = self._backend.models()
        ready = [model for model in models if model.state == "ready"]
        if name is None:
            if not ready and any(model.state == "loading" for model in models):
                sentence = "The models are still loading; try again in a moment."
                raise ProblemError("model_loading", sentence, retry_after_s=2.0)
            if len(ready) != 1:
                there = ", ".join(model.name for model in ready) or "none"
                raise ProblemError("model_not_found", f"Name the model; those served are: {there}.")
            return ready[0]
        for model in models:
            if model.name == name:
                if model.state == "ready":
                    return model
                if model.state == "loading":
                    sentence = f"Model {name} is still loading; try again in a moment."
                    raise ProblemError("model_loading", sentence, retry_after_s=2.0)
        there = ", ".join(model.name for model in ready) or "none"
        raise ProblemError("model_not_found", f"No model {name[:64]!r} is served; choose one of: {there}.")

    def _check_input(self, row: "JobRow") -> None:
        """See that a job's input is still what it was, before it is queued again."""
        from spacte_workers.batch.inputs import InputError, open_source

        from .storage import spec_of

        models = {model.name: model for model in self._backend.models()}
        shape = models[row.model].input_shape if row.model in models else None
        if shape is None:
            return  # the driver has the job's own checkpoint, and says what is wrong
        try:
            open_source(spec_of(row).input, shape).close()
        except InputError as error:
            raise ProblemError("job_state", f"{row.id} cannot go on: {error}") from None


def missing(job_id: str) -> ProblemError:
    """The 404 of a job."""
    return ProblemError("job_not_found", f"There is no job {job_id[:64]!r}; list them with GET /v1/jobs.")


def next_attempt(row: "JobRow") -> dict[str, Any]:
    """The columns of a job's next driver."""
    attempt = row.attempt + 1
    return {"attempt": attempt, "submission_id": f"{row.id}-{attempt}", "claimed_at": None}


def _check_params(params: CertifyParams, model: Model) -> None:
    if params.deadline_ms is not None:
        sentence = "A job's results do not depend on time; use `target_radius` or `tolerance` to stop early."
        raise field_error("/params/deadline_ms", sentence)
    if params.sigma is not None and params.sigma not in model.sigmas:
        served = ", ".join(f"{sigma:g}" for sigma in model.sigmas)
        sentence = f"Model {model.name} is served at sigma {served} only; ask for that, or leave it out."
        raise field_error("/params/sigma", sentence)
    if params.k_consensus is not None and params.k_consensus > model.heads:
        sentence = f"Model {model.name} has {model.heads} heads; ask for a k_consensus of at most that."
        raise field_error("/params/k_consensus", sentence)


def _row(request: JobRequest, model: Model, counted: Counted, checkpoint: str) -> "JobRow":
    from spacte_service.store.schema import JobRow

    job_id = new_id("job")
    now = datetime.now(UTC)
    return JobRow(
        id=job_id,
        state="queued",
        model=model.name,
        model_version=model.version,
        checkpoint=checkpoint,
        precision=model.precision or "fp32",
        input=request.input.model_dump(mode="json"),
        source=counted.spec.to_json(),
        file_id=counted.file_id,
        params=request.params.model_dump(mode="json"),
        # Drawn only now, when the images are here, so that none can be made for a seed.
        seed=request.params.seed or secrets.token_hex(16),
        notes=request.metadata,
        created_at=now,
        changed_at=now,
        attempt=1,
        submission_id=f"{job_id}-1",
        total=counted.total,
        certified=0,
        abstained=0,
        errored=0,
        seq=0,
    )
