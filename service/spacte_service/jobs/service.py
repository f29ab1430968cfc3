"""What the API can do with jobs: create, get, cancel, resume, delete. The reconciler does the rest."""

import hashlib
from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from spacte_client.types import (
    RESUMABLE_STATES,
    TERMINAL_STATES,
    Job,
    JobInput,
    JobList,
    JobParams,
    JobRequest,
    JobState,
    Model,
)
from spacte_service.backend import Backend
from spacte_service.callers import Caller
from spacte_service.decoding import Decoding
from spacte_service.idempotency import in_progress, mismatch
from spacte_service.ids import new_id, page_info
from spacte_service.problems import ProblemError, field_error
from spacte_service.quotas import QuotaCounts, quotas_as_problems
from spacte_service.settings import JobSettings
from spacte_service.uploads import Uploads
from spacte_service.worker_errors import RETRY_AFTER_S
from spacte_workers.errors import BadParameterError, check_consensus
from spacte_workers.seeds import fresh_seed
from spacte_workers.votes import most_votes

from .base_jobs import base_columns, check_base
from .checkpoints import keep_checkpoint
from .data_folder import DataFolder
from .inputs import CountedInput, count_input
from .wire import ACTIVE, job_of

if TYPE_CHECKING:
    from spacte_service.store import Store
    from spacte_service.store.idempotency import Claim
    from spacte_service.store.schema import JobRow

    from .reading import JobReader


@dataclass
class JobService:
    """Jobs of one store, about the models of the folder `_models`. Everything here blocks: call it in threads."""

    _settings: JobSettings
    _models: Path
    _backend: Backend
    _store: "Store"
    _uploads: Uploads
    _folder: DataFolder
    _reader: "JobReader"
    _quotas: QuotaCounts
    _decoding: Decoding
    _stalled: Callable[[], bool]  # whether jobs stand still, because nothing can be written

    def create(self, request: JobRequest, caller: Caller, key: str | None) -> tuple[Job, bool]:
        """A new job, or the one that an earlier request of the caller with the same key made; and whether it is that.

        Raises ProblemError: something about the request cannot be; nothing is made then.
        """
        claim = None if key is None else self._claim(request, caller.id, key)
        if isinstance(claim, dict):
            return Job.model_validate(claim), True
        try:
            return self._create(request, caller, claim), False
        except BaseException:
            if claim is not None:
                self._store.idempotency.drop(claim)
            raise

    def get(self, job_id: str, caller: Caller) -> "JobRow":
        """One job. Raises ProblemError: 404, there is none that the caller sees."""
        row = self._store.jobs.get(job_id, caller.sees)
        if row is None:
            raise _missing(job_id)
        return row

    def shown(self, row: "JobRow") -> Job:
        """A job as the API shows it now."""
        return job_of(row, stalled=self._stalled())

    def page(self, limit: int, after: str | None, state: JobState | None, caller: Caller) -> JobList:
        """Jobs that the caller sees, newest first. Raises ProblemError: 404, there is no job `after`."""
        from spacte_service.store.sessions import CursorError

        stalled = self._stalled()
        states = [state] if state is not None else None
        if state == "stalled":
            states = list(ACTIVE) if stalled else []
        elif stalled and state in ACTIVE:
            states = []
        try:
            rows, more = self._store.jobs.page(limit, after, states, caller.sees)
        except CursorError:
            raise _missing(after or "") from None
        return JobList(data=[job_of(row, stalled=stalled) for row in rows], **page_info(rows, more))

    def cancel(self, job_id: str, caller: Caller) -> Job:
        """Ask a job to stop; what it finished stays. Raises ProblemError: 404; 409, it is at its end."""
        while True:
            row = self.get(job_id, caller)
            if row.state in TERMINAL_STATES:
                raise ProblemError("job_state", f"{job_id} has {row.state}; there is nothing to cancel.")
            self._folder.job(job_id).ask_to_stop()
            if row.state == "cancelling":
                return job_of(row)
            moved = self._store.jobs.move(row, "cancelling")
            if moved is not None:
                return job_of(moved)

    def resume(self, job_id: str, caller: Caller) -> Job:
        """Carry on with a job where it stopped; its finished images are not certified again.

        Raises ProblemError: 404; 409, it is not stopped, or what it needs is gone; 429, the quota is used up.
        """
        while True:
            row = self.get(job_id, caller)
            repaired = self._repaired(row) if row.state in TERMINAL_STATES else {}
            if row.state not in RESUMABLE_STATES and not repaired:
                sentence = f"{job_id} is {row.state}; only one that failed, was cancelled or interrupted is resumed."
                raise ProblemError("job_state", sentence)
            self._check_input(row)
            # An interrupted one counts already.
            most = caller.quotas.jobs if row.caller == caller.id and row.state in TERMINAL_STATES else None
            with quotas_as_problems():
                moved = self._store.jobs.move(row, "queued", most_active=most, **(next_attempt(row) | repaired))
            if moved is not None:
                return job_of(moved)

    def _repaired(self, row: "JobRow") -> dict[str, Any]:
        """Where a job's results were changed from outside: cut them to what is whole, and give the columns for that."""
        folder = self._folder.job(row.id)
        try:
            self._reader.check(row)
        except ProblemError:
            if folder.at_work():
                return {}
            counts, sha256 = folder.cut(row.done, row.results_sha256)
            return {**counts, "results_sha256": sha256}
        return {}

    def remove(self, job_id: str, caller: Caller) -> None:
        """Delete a job with its results. Raises ProblemError: 404; 409, it is not at its end."""
        if not self._store.jobs.remove(job_id, caller.sees):
            row = self.get(job_id, caller)
            raise ProblemError("job_state", f"{job_id} is {row.state}; cancel it first.")
        self._folder.job(job_id).remove()

    def _claim(self, request: JobRequest, caller: str, key: str) -> "Claim | dict[str, Any]":
        from spacte_service.store.idempotency import InProgressError, MismatchError

        digest = hashlib.sha256(request.model_dump_json().encode()).hexdigest()
        try:
            return self._store.idempotency.claim(caller, key, digest)
        except InProgressError:
            raise in_progress() from None
        except MismatchError:
            raise mismatch() from None

    def _create(self, request: JobRequest, caller: Caller, claim: "Claim | None") -> Job:
        from spacte_service.store.idempotency import InProgressError
        from spacte_service.store.jobs import FileGoneError

        base = None if request.base_job is None else self._base(request.base_job, caller)
        model = self._model(request.model or (None if base is None else base.model))
        if base is not None:
            check_base(base, self._folder.spec(base), model)
            params = JobParams.model_validate(base.params | {"seed": None, "n_upper": None})
            counted = CountedInput(base.input, self._folder.spec(base).input, base.total, base.file_id)
        else:
            params = request.params
            counted = self._counted(request.input, model, caller)
        _check_params(params, model)
        checkpoint = self._folder.checkpoint(model.name, model.version)
        fetched = self._folder.models / model.version / model.name
        keep_checkpoint(fetched if fetched.is_dir() else self._models, model.name, model.version, checkpoint)
        if counted.spec.kind == "file":
            counted = replace(counted, spec=replace(counted.spec, location=self._folder.named(counted.spec.location)))
        row = _row(request.metadata, params, model, counted, self._folder.named(checkpoint), caller, base)
        self._folder.keep_job(self._folder.spec(row))
        noises = counted.total * most_votes(params)
        if base is not None:
            self._folder.job(row.id).take_base(self._folder.job(base.id))
        try:
            with self._quotas.noises(caller.id, caller.quotas, noises), quotas_as_problems():
                answer = job_of(row).model_dump(mode="json")
                self._store.jobs.add(row, claim, answer, most_active=caller.quotas.jobs)
        except BaseException as error:
            self._folder.job(row.id).remove()
            if isinstance(error, FileGoneError):
                raise field_error("/input/file_id", "The file was deleted just now; upload it again.") from None
            if isinstance(error, InProgressError):
                raise in_progress("Another request with this Idempotency-Key has taken over") from None
            raise
        return job_of(row)

    def _base(self, job_id: str, caller: Caller) -> "JobRow":
        """The job whose certificates are to be carried over.

        Raises ProblemError: 404, the caller sees none; 409, its results or its input are not what they were.
        """
        row = self.get(job_id, caller)
        self._reader.check(row)
        self._check_input(row)
        return row

    def _counted(self, source: JobInput | None, model: Model, caller: Caller) -> CountedInput:
        if source is None:
            raise ProblemError("bad_request", "Name the images of the job by `input`.")
        return count_input(source, model, self._settings, self._uploads, self._folder, caller, self._decoding.inputs)

    def _model(self, name: str | None) -> Model:
        """The model that a job is about; it must be served, so that its precision is known.

        Raises ProblemError: 400, several are served and none is named; 404; 409, it failed; 503, it is loading.
        """
        models = self._backend.models()
        ready = {model.name: model for model in models if model.state == "ready"}
        loading = [model.name for model in models if model.state == "loading"]
        there = ", ".join(ready) or "none"
        if name is None:
            if not ready and loading:
                raise _loading("The models are")
            if len(ready) > 1:
                raise ProblemError("bad_request", f"Several models are served: name one of {there}.")
            if not ready:
                raise ProblemError("model_not_found", "No model is served: load one.")
            return next(iter(ready.values()))
        if name in loading:
            raise _loading(f"Model {name} is")
        failed = {model.name: model.reason for model in models if model.state == "failed"}
        if name in failed:
            raise ProblemError("model_failed", f"Model {name} is not served: {failed[name]}")
        if name not in ready:
            raise ProblemError("model_not_found", f"No model {name[:64]!r} is served; choose one of: {there}.")
        return ready[name]

    def _check_input(self, row: "JobRow") -> None:
        """See that a job's input is still what it was, before it is queued again."""
        from spacte_workers.batch.inputs import InputError
        from spacte_workers.decoding import open_isolated

        self._folder.restore_job(row)
        for model in self._backend.models():
            if model.name == row.model:  # else the driver, which has the job's own checkpoint, says what is wrong
                try:
                    open_isolated(self._folder.spec(row).input, model.input_shape, self._decoding.inputs).close()
                except InputError as error:
                    raise ProblemError("job_state", f"{row.id} cannot go on: {error}") from None


def next_attempt(row: "JobRow") -> dict[str, Any]:
    """The columns of a job's next driver."""
    attempt = row.attempt + 1
    return {"attempt": attempt, "submission_id": f"{row.id}-{attempt}", "claimed_at": None}


def _missing(job_id: str) -> ProblemError:
    return ProblemError("job_not_found", f"There is no job {job_id[:64]!r}; list them with GET /v1/jobs.")


def _loading(what: str) -> ProblemError:
    sentence = f"{what} still loading; try again in a moment."
    return ProblemError("model_loading", sentence, retry_after_s=RETRY_AFTER_S["model_loading"])


def _check_params(params: JobParams, model: Model) -> None:
    from spacte_workers.certification.algorithm import check_certify

    if params.deadline_ms is not None:
        sentence = "A job's results do not depend on time; use `target_radius` or `tolerance` to stop early."
        raise field_error("/params/deadline_ms", sentence)
    if params.sigma is not None and params.sigma not in model.sigmas:
        served = ", ".join(f"{sigma:g}" for sigma in model.sigmas)
        sentence = f"Model {model.name} is served at sigma {served} only; ask for that, or leave it out."
        raise field_error("/params/sigma", sentence)
    try:
        check_certify(params)
    except BadParameterError as error:
        raise field_error("/params/certify", str(error)) from None
    try:
        check_consensus(params.k_consensus, model.heads, f"Model {model.name}")
    except BadParameterError as error:
        raise field_error("/params/k_consensus", str(error)) from None


def _row(
    notes: dict[str, str],
    params: JobParams,
    model: Model,
    counted: CountedInput,
    checkpoint: str,
    caller: Caller,
    base: "JobRow | None",
) -> "JobRow":
    from spacte_service.store.schema import JobRow

    job_id = new_id("job")
    now = datetime.now(UTC)
    return JobRow(
        id=job_id,
        owner=caller.owner,
        caller=caller.id,
        state="queued",
        model=model.name,
        model_version=model.version,
        checkpoint=checkpoint,
        precision=model.precision or "fp32",
        input=counted.asked,
        source=counted.spec.to_json(),
        file_id=counted.file_id,
        params=params.model_dump(mode="json"),
        # Drawn only now, when the images are here, so that none can be made for a seed.
        seed=params.seed or fresh_seed(),
        notes=notes,
        created_at=now,
        changed_at=now,
        attempt=1,
        submission_id=f"{job_id}-1",
        total=counted.total,
        base=None if base is None else base_columns(base),
        certified=0,
        abstained=0,
        errored=0,
        seq=0,
    )
