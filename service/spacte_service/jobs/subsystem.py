"""Files and jobs as one part of the gateway: opened with it, or when first asked for, and closed with it."""

import asyncio
from collections.abc import Callable
from contextlib import suppress
from contextvars import Context
from dataclasses import dataclass
from typing import TYPE_CHECKING

from anyio import CapacityLimiter, to_thread

from spacte_service.backend import Backend
from spacte_service.metrics import Metrics
from spacte_service.settings import Settings

from .runner import Runner
from .storage import Workplace

if TYPE_CHECKING:
    from spacte_service.files import Uploads
    from spacte_service.store import Store

    from .images import Pictures
    from .reading import Reader
    from .reconciler import Reconciler
    from .service import JobService


@dataclass(frozen=True, slots=True)
class Opened:
    """The parts, while the store is open."""

    store: "Store"
    uploads: "Uploads"
    jobs: "JobService"
    reader: "Reader"
    pictures: "Pictures"
    reconciler: "Reconciler"
    runner: Runner
    watch: asyncio.Task[None]


class Batch:
    """Files and jobs.

    Args:
        settings: the gateway's.
        backend: knows the models.
        metrics: is told of jobs.
        closing: whether the gateway is shutting down.
    """

    def __init__(self, settings: Settings, backend: Backend, metrics: Metrics, closing: Callable[[], bool]) -> None:
        self._settings = settings
        self._backend = backend
        self._metrics = metrics
        self._closing = closing
        self._opening = asyncio.Lock()
        self._opened: Opened | None = None
        self.threads = CapacityLimiter(8)

    async def start(self) -> None:
        """Open the store where there is one, and look after the jobs in it.

        A gateway that never had a file or a job makes no data folder before it gets one.

        Raises:
            StoreError: the database cannot be used.
        """
        there = self._settings.data_dir.resolve() / "spacte.sqlite"
        if self._settings.database or there.exists():
            await self.opened()

    async def stop(self) -> None:
        """Close the store. Drivers on a cluster run on; those of this process end, to be resumed."""
        opened, self._opened = self._opened, None
        if opened is None:
            return
        opened.watch.cancel()
        with suppress(asyncio.CancelledError):
            await opened.watch
        await opened.runner.close()
        await to_thread.run_sync(opened.pictures.close)
        await to_thread.run_sync(opened.store.close)

    async def opened(self) -> Opened:
        """The parts; opened now where they are not yet.

        Raises:
            StoreError: the database cannot be used.
        """
        async with self._opening:
            if self._opened is None:
                self._opened = await self._open()
            return self._opened

    async def image(self, file_id: str, max_bytes: int) -> bytes:
        """The bytes of an uploaded image.

        Raises:
            ProblemError: 404; 415, the file is no image; 413, it is larger than that.
        """
        uploads = (await self.opened()).uploads
        return await to_thread.run_sync(uploads.image, file_id, max_bytes, limiter=self.threads)

    def readiness(self) -> dict[str, str]:
        """Checks by name, each `ok` or a sentence on what is wrong."""
        return {"database": self._opened.reconciler.database} if self._opened else {}

    async def _open(self) -> Opened:
        store = await to_thread.run_sync(self._open_store)
        from spacte_service.files import Uploads

        from .images import Pictures
        from .reading import Reader
        from .reconciler import Reconciler
        from .service import JobService

        workplace = Workplace(self._settings)
        uploads = Uploads(store, workplace.uploads)
        runner = self._runner(workplace)
        reconciler = Reconciler(
            self._settings,
            store,
            runner,
            workplace,
            on_counts=self._metrics.jobs_are,
            on_images=self._metrics.job_images,
        )
        return Opened(
            store,
            uploads,
            JobService(self._settings, self._backend, store, uploads, workplace),
            Reader(store, workplace, self._closing),
            Pictures(),
            reconciler,
            runner,
            # Not in the context of the request that may have opened the store: its id is not that of our log.
            asyncio.create_task(reconciler.run(), context=Context()),
        )

    def _open_store(self) -> "Store":
        from spacte_service.store import Store

        return Store.open(self._settings.database_url)

    def _runner(self, workplace: Workplace) -> Runner:
        if self._settings.in_process:
            from .process_runner import ProcessRunner

            return ProcessRunner(workplace.logs)
        from .ray_runner import RayJobsRunner

        return RayJobsRunner()
