"""The parts of one application: made, started and stopped together. Routes get them from `dependencies`."""

from anyio import CapacityLimiter, to_thread

from spacte_client.types import Certificate

from .admission import Admission
from .backend import Backend
from .bodies import BodyReader
from .decoding import Decoding
from .disconnects import RequestTasks
from .drain import Drain
from .idempotency import IdempotentAnswers
from .image_requests import ImageRequests
from .jobs.batch_jobs import BatchJobs
from .keys import KeyRing
from .metrics import Metrics
from .models import Models
from .open_streams import OpenStreams
from .quotas import QuotaCounts
from .settings import Settings
from .signing_keys import Signer

PARSERS = 4  # threads that parse large bodies; chosen: one takes a tenth of a second


class Gateway:
    """Holds the parts, in `app.state.gateway`; each gets the groups of settings that it needs."""

    def __init__(self, settings: Settings, backend: Backend, metrics: Metrics, decoding: Decoding) -> None:
        decoders, parsers = CapacityLimiter(settings.decode_processes), CapacityLimiter(PARSERS)
        self.settings = settings
        self.backend = backend
        self.metrics = metrics
        self.decoding = decoding
        self.admission = Admission(
            settings.max_concurrent_requests,
            settings.max_running,
            settings.max_concurrent_per_caller,
            settings.answer_within_s,
        )
        metrics.watch(self.admission, backend.pool_status)
        self.drain = Drain()
        self.tasks = RequestTasks()
        self.models = Models(backend)
        self.signer = Signer(settings.signing_keys_file)
        self.image_requests = ImageRequests(backend, self.admission, metrics, decoders, self.signer)
        self.quotas = QuotaCounts()
        self.jobs = BatchJobs(settings, backend, metrics, self.drain, self.quotas, decoding)
        self.bodies = BodyReader(settings, parsers, self.jobs.image)
        self.certificates = IdempotentAnswers(Certificate, self.jobs.stored_answers)
        self.keys = KeyRing(settings.fixed_keys, settings.keys_file) if settings.has_keys else None
        self.streams = OpenStreams(self.keys)

    async def open(self) -> None:
        """Open the store, where there is one; a second time does nothing."""
        await self.jobs.start()

    async def start(self) -> None:
        """Open the store and start the workers; returns once every model is loaded or has failed.

        Where that fails, nothing runs on.
        """
        try:
            await self.open()
            await self.backend.start()
        except BaseException:
            await self.stop()
            raise

    async def stop(self) -> None:
        """Let go of the workers."""
        await self.models.stop()
        await self.certificates.written()
        await self.jobs.stop()
        await self.backend.stop()
        await to_thread.run_sync(self.decoding.close)
