"""Files and jobs as one part of the gateway: opened with it, or when first asked for, and closed with it."""

import asyncio
from collections.abc import Callable
from contextlib import suppress
from contextvars import Context
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, TypeVar, TypeVarTuple

from anyio import CapacityLimiter, to_thread

from spacte_service.backend import Backend
from spacte_service.callers import Caller
from spacte_service.decoding import Decoding
from spacte_service.drain import Drain
from spacte_service.metrics import Metrics
from spacte_service.quotas import QuotaCounts
from spacte_service.settings import Settings

from .data_folder import DataFolder
from .runner import Runner

if TYPE_CHECKING:
    from spacte_service.store import Store
    from spacte_service.store.idempotency import Idempotency
    from spacte_service.uploads import Uploads

    from .images import JobImages
    from .reading import JobReader
    from .reconciler import Reconciler
    from .service import JobService

T = TypeVar("T")
A = TypeVarTuple("A")

THREADS = 8  # requests that wait for disk or database at a time; chosen: below the store's ten connections


@dataclass(frozen=True, slots=True)
class OpenJobs:
    """The parts, while the store is open."""

    store: "Store"
    uploads: "Uploads"
    service: "JobService"
    reader: "JobReader"
    images: "JobImages"
    reconciler: "Reconciler"
    runner: Runner
    reconciling: asyncio.Task[None]
    threads: CapacityLimiter

    async def in_thread(self, function: Callable[[*A], T], *arguments: *A) -> T:
        """What a blocking function of a part returns."""
        return await to_thread.run_sync(function, *arguments, limiter=self.threads)


@dataclass(eq=False)
class BatchJobs:
    """Files and jobs."""

    _settings: Settings
    _backend: Backend
    _metrics: Metrics
    _drain: Drain
    _quotas: QuotaCounts
    _decoding: Decoding
    _opening: asyncio.Lock = field(default_factory=asyncio.Lock)
    _opened: OpenJobs | None = None

    async def start(self) -> None:
        """Open the store where there is one, and look after the jobs in it.

        A gateway that never had a file or a job makes no data folder before it gets one.

        Raises StoreError: the database or the data folder cannot be used.
        """
        if self._settings.data_dir.exists():
            await to_thread.run_sync(self._check_folder)
        if self._settings.database or self._settings.sqlite_file.exists():
            await self.opened()

    async def stop(self) -> None:
        """Close the store. Drivers on a cluster run on; those of this process end, to be resumed."""
        opened, self._opened = self._opened, None
        if opened is None:
            return
        opened.reconciling.cancel()
        with suppress(asyncio.CancelledError):
            await opened.reconciling
        await opened.runner.close()
        await to_thread.run_sync(opened.images.close)
        await to_thread.run_sync(opened.store.close)

    async def opened(self) -> OpenJobs:
        """The parts; opened now where they are not yet. Raises StoreError: the database cannot be used."""
        async with self._opening:
            if self._opened is None:
                self._opened = await self._open()
            return self._opened

    async def image(self, caller: Caller, file_id: str, max_bytes: int) -> bytes:
        """The bytes of an uploaded image.

        Raises ProblemError: 404; 415, the file is no image; 413, it is larger than that.
        """
        opened = await self.opened()
        return await opened.in_thread(opened.uploads.image, caller, file_id, max_bytes)

    async def stored_answers(self) -> "Idempotency | None":
        """The store's part in idempotency; None where no job or file has made a store yet."""
        return (await self.opened()).store.idempotency if self._opened else None

    def readiness(self) -> dict[str, str]:
        """Checks by name, each `ok` or a sentence on what is wrong."""
        if self._opened is None:
            return {}
        looks = self._opened.reconciler
        return {"database": looks.database, "data_folder": looks.data_folder}

    async def _open(self) -> OpenJobs:
        settings = self._settings
        store = await to_thread.run_sync(self._open_store)
        from spacte_service.uploads import Uploads

        from .images import JobImages
        from .reading import JobReader
        from .reconciler import Reconciler
        from .service import JobService

        folder = await to_thread.run_sync(self._data_folder)
        uploads = Uploads(store, folder, self._decoding.pictures.kind)
        reader = JobReader(store, folder, self._drain)
        runner = self._runner(folder)
        reconciler = Reconciler(settings, settings, store, runner, folder, self._metrics)
        return OpenJobs(
            store,
            uploads,
            JobService(
                settings,
                settings.models,
                self._backend,
                store,
                uploads,
                folder,
                reader,
                self._quotas,
                self._decoding,
                lambda: reconciler.stalled,
            ),
            reader,
            JobImages(self._decoding, folder),
            reconciler,
            runner,
            # Not in the context of the request that may have opened the store: its id is not that of our log.
            asyncio.create_task(reconciler.run(), context=Context()),
            CapacityLimiter(THREADS),
        )

    def _check_folder(self) -> None:
        from spacte_service.store import StoreError

        try:
            DataFolder(self._settings.data_dir).check_writable()
        except OSError as error:
            raise StoreError(
                f"The data folder {self._settings.data_dir} cannot be written ({error.strerror}): free space, make it "
                "writable, or name another one with --data-dir."
            ) from error

    def _data_folder(self) -> DataFolder:
        """With the storage, where there is one. Raises StoreError: that cannot be used."""
        from spacte_service.store import StoreError
        from spacte_workers.batch.object_store import ObjectStore, StorageError

        if self._settings.job_storage is None:
            return DataFolder(self._settings.data_dir)
        try:
            storage = ObjectStore(self._settings.job_storage)
            storage.check()
        except StorageError as error:
            raise StoreError(str(error)) from error
        return DataFolder(self._settings.data_dir, storage)

    def _open_store(self) -> "Store":
        from spacte_service.store import Store

        return Store.open(self._settings.database_url)

    def _runner(self, folder: DataFolder) -> Runner:
        if not self._settings.in_process:
            from spacte_service.ray_process import ProcessPool, RayRunner

            if isinstance(self._backend.pool, ProcessPool):
                return RayRunner(self._backend.pool)
        from .process_runner import ProcessRunner

        return ProcessRunner(folder.logs)
