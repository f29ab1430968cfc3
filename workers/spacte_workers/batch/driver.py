"""Certifies the images of a job, many at once, and loses none: plain asyncio over whatever draws the noises.

The noise of an image is a function of the job's seed and the image's index alone, and an image counts once it is on
disk. So a driver that is killed is followed by another one that skips what is there and draws for the others exactly
what the first would have drawn.
"""

import asyncio
import errno
import logging
from collections.abc import Awaitable, Callable
from contextlib import suppress
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, TypeVar

from spacte_client.rounding import round_up
from spacte_client.types import Certificate, JobParams
from spacte_workers.certification.attack import AttackSpec
from spacte_workers.errors import BadParameterError, NoWorkersError
from spacte_workers.images import BadImageError, asked_of, from_array
from spacte_workers.seeds import attack_seed
from spacte_workers.shards import Image

from .base_job import Recertification
from .chains import Record
from .inputs import Row, Source
from .inputs.pixels import asked_for
from .job_folder import JobFolder, JobSpec, write_json
from .object_store import StorageError
from .progress import State, Throughput, snapshot
from .results import certificate_record, error_record

if TYPE_CHECKING:
    from spacte_workers.serving.runtime import Runtime

_log = logging.getLogger(__name__)

T = TypeVar("T")

AHEAD_S = 1.0
"""Images in flight cover about this much work. Chosen: no sampler waits for the next image to be read."""

TICK_S = 0.5
"""How often `progress.json` is written. Chosen: a gateway that looks once a second finds something new."""

WAIT_FOR_SAMPLERS_S = 1.0
WAIT_FOR_ROOM_S = 2.0  # chosen: a disk is freed in minutes
NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EROFS)
"""Errors of a disk that may pass: it is full, or mounted read-only."""
"""Pause where there is no sampler. Chosen: the coordinator has waited half a minute for one by then."""


class Driver:
    """One attempt at a job. The caller holds the lock of the folder.

    Args:
        folder, spec, source: the job, its `job.json` and its input, open.
        runtime: decodes images and draws the noises.
        input_shape: (C, H, W) that the model takes.
        samplers: how many are alive now; asked again and again, because they come and go.
        recertification: makes the certificates where the job has a base job.
        attempt: which driver of the job this is, from 1.
        on_progress: called with the contents of `progress.json` whenever it is written.
    """

    def __init__(
        self,
        folder: JobFolder,
        spec: JobSpec,
        source: Source,
        runtime: "Runtime",
        *,
        input_shape: tuple[int, ...],
        samplers: Callable[[], int],
        recertification: Recertification | None = None,
        attempt: int = 1,
        on_progress: Callable[[dict[str, Any]], None] | None = None,
    ) -> None:
        self._folder = folder
        self._spec = spec
        self._params = named_params(spec)
        self._source = source
        self._runtime = runtime
        self._input_shape = input_shape
        self._samplers = samplers
        self._recertification = recertification
        self._attempt = attempt
        self._on_progress = on_progress
        self._log = folder.open_log()
        self._begun = len(self._log.finished)
        self._started_at = datetime.now(UTC)
        self._throughput = Throughput()
        self._latest = Throughput(window_s=10.0)  # chosen: what is in flight follows the pace within seconds
        self._finished: asyncio.Queue[Record | BaseException] = asyncio.Queue()
        self._tasks: set[asyncio.Task[None]] = set()
        if self._log.cut:
            _log.warning("cut %d bytes of lines that do not follow off %s", self._log.cut, folder.results_file)

    async def run(self, stop: asyncio.Event | None = None) -> State:
        """Certify what is not finished yet.

        Args:
            stop: set it to stop between images.

        Returns:
            `succeeded` when every image is finished; `cancelled` or `interrupted` when stopped.

        Raises:
            Exception: whatever made it impossible to go on; `progress.json` says so and the results stay.
        """
        over, failure, stop = asyncio.Event(), None, stop or asyncio.Event()
        ticker = asyncio.create_task(self._tick(over))
        try:
            try:
                await self._certify_all(stop)
            except Exception as error:  # noqa: BLE001  raised again below
                failure = error
            over.set()
            await ticker  # what it writes comes before the last word
            if failure is not None:
                await self._report("failed", {"code": "internal", "detail": str(failure) or type(failure).__name__})
                raise failure
            state = self._state()
            await _when_there_is_room(lambda: self._report(state), stop)
            return state
        finally:
            ticker.cancel()
            self._log.close()

    async def _certify_all(self, stop: asyncio.Event) -> None:
        waiting = (index for index in self._source.indices if index not in self._log.finished)
        stopping = asyncio.create_task(stop.wait())
        try:
            while not stop.is_set():
                while len(self._tasks) < self._ahead() and (index := next(waiting, None)) is not None:
                    task = asyncio.create_task(self._one(index))
                    self._begun += 1
                    self._tasks.add(task)
                    task.add_done_callback(self._tasks.discard)
                if not self._tasks and self._finished.empty():
                    return
                getting = asyncio.create_task(self._finished.get())
                await asyncio.wait((getting, stopping), return_when=asyncio.FIRST_COMPLETED)
                if getting.done():
                    await self._keep(getting.result(), stop)
                else:
                    getting.cancel()
        finally:
            stopping.cancel()
            for task in self._tasks:
                task.cancel()
            await asyncio.gather(*self._tasks, return_exceptions=True)
        if not self._finished.empty():
            await self._keep(self._finished.get_nowait(), stop)

    async def _keep(self, first: Record | BaseException, stop: asyncio.Event) -> None:
        """Write what is finished by now in one go, so that many small images share a disk flush."""
        done = [first]
        while not self._finished.empty():
            done.append(self._finished.get_nowait())
        records = [record | {"begun": self._begun} for record in done if not isinstance(record, BaseException)]
        if records:
            await _when_there_is_room(lambda: asyncio.to_thread(self._log.append, records), stop)
            self._throughput.add(len(records))
            self._latest.add(len(records))
        for error in done:
            if isinstance(error, BaseException):
                raise error

    def _ahead(self) -> int:
        """Images to have in flight: two a sampler, or of small ones enough for a second of work."""
        return max(2 * self._samplers(), 2, int(AHEAD_S * (self._latest.per_second() or 0)))

    async def _one(self, index: int) -> None:
        try:
            self._finished.put_nowait(await self._record(index))
        except Exception as error:  # noqa: BLE001  raised again by `_keep`, in the loop that can end the job
            self._finished.put_nowait(error)

    async def _record(self, index: int) -> Record:
        """The result of one image. What is wrong with the image is a result too.

        Raises:
            InputError: the input is not what the job was made for any more.
        """
        row = None
        try:
            row = await asyncio.to_thread(self._source.read, index)
            image = await asyncio.to_thread(self._decode, row)
            expected = row.label if self._params.stop_incorrect else None
            certificate, votes = await self._patiently(index, lambda: self._certificate(index, image, expected))
            found = await self._patiently(index, lambda: self._attacked(index, image, certificate))
        except (BadImageError, BadParameterError) as error:
            label, custom_id = (row.label, row.custom_id) if row else self._source.about(index)
            record = error_record(index, label, custom_id, error)
        else:
            record = certificate_record(index, row.label, row.custom_id, certificate) | {"votes": votes} | found
        self._source.check_unchanged(index)
        return record | {"input_sha256": self._spec.input.sha256}

    def _decode(self, row: Row) -> Image:
        if isinstance(row.content, bytes):
            asked = asked_for(self._spec.input, asked_of(self._params))
            return self._runtime.decode(self._spec.model, row.content, asked)
        return from_array(row.content, input_shape=self._input_shape)

    async def _patiently(self, index: int, make: Callable[[], Awaitable[T]]) -> T:
        """Wait out times without a sampler: the cluster may be on its way back."""
        warned = False
        while True:
            try:
                return await make()
            except NoWorkersError as error:
                if not warned:
                    _log.warning("image %d waits for a sampler: %s", index, error)
                warned = True
                await asyncio.sleep(WAIT_FOR_SAMPLERS_S)

    async def _certificate(self, index: int, image: Image, expected: int | None) -> tuple[Certificate, int | None]:
        request_id = f"{self._spec.id}-{index}"
        if self._recertification is not None:
            return await self._recertification.certificate(index, image, request_id, expected)
        made = await self._runtime.certify(
            image,
            self._params,
            request_id=request_id,
            priority="batch",
            image_index=index,
            seed_source=self._spec.seed_source,
            expected=expected,
        )
        return made, None

    async def _attacked(self, index: int, image: Image, certificate: Certificate) -> Record:
        """What an attack found, as the record has it; nothing where there is none."""
        params = self._params
        if params.n_upper is None or certificate.abstained or params.seed is None:
            return {}
        seed = attack_seed(params.seed, index)
        spec = AttackSpec.of(certificate, n=params.n_upper, alpha=params.alpha_upper, seed=seed)
        found, drawn = await self._runtime.adversarial(image, spec, self._spec.model)
        return {"upper": None if found is None else round_up(found.distance), "attack_noises": drawn}

    async def _tick(self, over: asyncio.Event) -> None:
        """Say how far it is, again and again; a folder that cannot be written now may be in a moment."""
        warned = False
        while not over.is_set():
            try:
                await self._report("running")
            except OSError as error:
                if not warned:
                    _log.warning("progress cannot be written: %s", error)
                warned = True
            with suppress(TimeoutError):
                async with asyncio.timeout(TICK_S):
                    await over.wait()

    def _state(self) -> State:
        if len(self._log.finished) == len(self._source.indices):
            return "succeeded"
        return self._folder.stopped_state()

    async def _report(self, state: State, error: dict[str, str] | None = None) -> None:
        end, total = self._log.end, len(self._source.indices)
        progress = snapshot(state, self._attempt, total, end.counts, self._throughput, self._started_at, error)
        progress["results_sha256"] = end.sha256
        await asyncio.to_thread(write_json, self._folder.progress_file, progress)
        if self._on_progress:
            self._on_progress(progress)


def named_params(spec: JobSpec) -> JobParams:
    """A job's options with the name of its model."""
    return spec.params.model_copy(update={"model": spec.model})


async def _when_there_is_room(write: Callable[[], Awaitable[None]], stop: asyncio.Event) -> None:
    """Write, again and again while disk or storage take nothing, until `stop`. Raises OSError: it does not pass."""
    warned = False
    while True:
        try:
            await write()
        except OSError as error:
            if not (error.errno in NO_ROOM or isinstance(error, StorageError)) or stop.is_set():
                raise
            if not warned:
                _log.warning("the job waits until its results can be written: %s", error)
            warned = True
        else:
            return
        await pause(stop, WAIT_FOR_ROOM_S)


async def pause(stop: asyncio.Event, seconds: float) -> None:
    """Sleep for so long, or until `stop` is set."""
    with suppress(TimeoutError):
        async with asyncio.timeout(seconds):
            await stop.wait()
