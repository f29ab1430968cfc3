"""What routes depend on, one part of the gateway each: `backend: TheBackend` in a route's signature gives it."""

from collections.abc import AsyncGenerator
from typing import Annotated, Any

from fastapi import Depends, Request
from pydantic import AfterValidator

from spacte_client.types import Certificate

from .admission import Admission
from .backend import Backend
from .bodies import BodyReader
from .disconnects import RequestTasks
from .drain import Drain
from .idempotency import IdempotentAnswers, check_key
from .image_requests import ImageRequests
from .jobs.batch_jobs import BatchJobs, OpenJobs
from .keys import KeyRing
from .metrics import Metrics
from .models import Models
from .open_streams import OpenStreams
from .quotas import QuotaCounts
from .settings import LimitSettings, Settings
from .signing_keys import Signer


def part(name: str) -> Any:
    """A dependency on one part of the gateway. A coroutine, because FastAPI runs functions in threads."""

    async def get(request: Request) -> Any:
        return getattr(request.app.state.gateway, name)

    return Depends(get)


TheAdmission = Annotated[Admission, part("admission")]
TheBackend = Annotated[Backend, part("backend")]
TheBodies = Annotated[BodyReader, part("bodies")]
TheCertificates = Annotated[IdempotentAnswers[Certificate], part("certificates")]
TheDrain = Annotated[Drain, part("drain")]
TheImageRequests = Annotated[ImageRequests, part("image_requests")]
TheJobs = Annotated[BatchJobs, part("jobs")]
TheKeys = Annotated[KeyRing | None, part("keys")]
TheLimits = Annotated[LimitSettings, part("settings")]
TheMetrics = Annotated[Metrics, part("metrics")]
TheModels = Annotated[Models, part("models")]
TheQuotas = Annotated[QuotaCounts, part("quotas")]
TheSettings = Annotated[Settings, part("settings")]
TheSigner = Annotated[Signer, part("signer")]
TheStreams = Annotated[OpenStreams, part("streams")]
TheTasks = Annotated[RequestTasks, part("tasks")]


async def open_jobs(jobs: TheJobs) -> OpenJobs:
    """Files and jobs, with the store open."""
    return await jobs.opened()


async def in_flight(drain: TheDrain) -> AsyncGenerator[None]:
    """Count the request as in flight until its answer is sent; 503 once the service is shutting down."""
    with drain.request():
        yield


async def readiness(backend: TheBackend, jobs: TheJobs, drain: TheDrain) -> dict[str, str]:
    """Checks by name, each `ok` or a sentence on what is wrong."""
    draining = "The service is shutting down." if drain.begun else "ok"
    return backend.ready() | jobs.readiness() | {"draining": draining}


TheOpenJobs = Annotated[OpenJobs, Depends(open_jobs)]
InFlight = Annotated[None, Depends(in_flight)]
Readiness = Annotated[dict[str, str], Depends(readiness)]
IdempotencyKey = Annotated[str | None, AfterValidator(check_key)]
"""The header, still to be described: `Annotated[IdempotencyKey, Header(description=...)] = None`."""
