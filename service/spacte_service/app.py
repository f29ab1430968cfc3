"""The application: `create_app` puts settings, workers, middleware and routes together."""

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager

from fastapi import FastAPI
from fastapi.middleware.cors import CORSMiddleware

from .backend import Backend
from .body_budget import BodyBudget
from .decoding import Decoding
from .gateway import Gateway
from .head_requests import HeadRequests
from .logs import configure_structlog
from .metrics import Metrics
from .middleware import AddressCheck, BodyLimit, RequestContext
from .origins import OriginCheck
from .problems import add_problem_handlers
from .routes import answers, files, health, jobs, kserve, models, sets, signing, stream
from .routes import metrics as metrics_routes
from .routes.descriptions import add_openapi
from .settings import Settings
from .version import VERSION
from .web import add_pages

DESCRIPTION = """Images in, predictions with certified L2 radii out, by randomized smoothing.

Every answer with status 400 and above is a problem document (RFC 9457) with a stable `code`; its `instance`,
like the header `X-Request-ID` of every answer, names the request.
"""


def create_app(settings: Settings | None = None, runtime: Backend | None = None) -> FastAPI:
    """Make the gateway's application.

    Args:
        settings: how to serve; from the environment (`SPACTE_*`) where None.
        runtime: the models and samplers (`spacte_workers.serving.runtime.Runtime`); made from the settings where
            None. The application's lifespan starts and stops it. Where no lifespan runs, as under an ASGI
            transport in a test, the caller starts it (`await runtime.start()`).
    """
    settings = settings or Settings()
    configure_structlog()
    metrics, decoding = Metrics(), Decoding(settings)
    if runtime is None:
        from .runtime import make_runtime

        runtime = make_runtime(settings, decoding, metrics)
    gateway = Gateway(settings, runtime, metrics, decoding)

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncGenerator[None]:
        await gateway.start()
        try:
            yield
        finally:
            await gateway.stop()

    app = FastAPI(
        title="SPACTE HTTP API",  # generators name their package after it: not `spacte_client`, which is the SDK
        version=VERSION,
        description=DESCRIPTION,
        lifespan=lifespan,
        docs_url=None,
        redoc_url=None,
        generate_unique_id_function=lambda route: route.name,  # generated clients name their methods so
    )
    app.state.gateway = gateway
    for routes in (answers, sets, stream, models, files, jobs, signing, health, kserve):
        app.include_router(routes.router)
    if settings.metrics_port is None:
        app.include_router(metrics_routes.router)
    add_pages(app)
    add_problem_handlers(app)
    add_openapi(app)
    add_middleware(app, settings, metrics)
    return app


def add_middleware(app: FastAPI, settings: Settings, metrics: Metrics) -> None:
    """Surround the routes; what is added last comes first."""
    app.add_middleware(
        BodyLimit,
        limit=settings.max_body_bytes,
        uploads=settings.max_upload_bytes,
        budget=BodyBudget(settings.bodies_bytes),
    )
    if settings.origins:
        app.add_middleware(
            CORSMiddleware,
            allow_origins=settings.origins,
            allow_methods=["GET", "POST", "PUT", "DELETE"],
            allow_headers=["Authorization", "Content-Type", "Idempotency-Key", "X-Request-ID"],
            expose_headers=["X-Request-ID", "Retry-After", "Location", "Idempotency-Replayed"],
        )
    app.add_middleware(AddressCheck)
    app.add_middleware(OriginCheck, hosts=settings.hosts, origins=settings.origins)
    app.add_middleware(HeadRequests)
    app.add_middleware(RequestContext, metrics=metrics)
