"""`GET /metrics` for Prometheus."""

from fastapi import APIRouter, Depends
from fastapi.responses import Response
from prometheus_client import CONTENT_TYPE_LATEST

from spacte_service.auth import identify
from spacte_service.dependencies import TheMetrics

from .descriptions import problems

router = APIRouter(tags=["health"])


@router.get(
    "/metrics",
    dependencies=[Depends(identify)],
    responses=problems(400, 401, 429) | {200: {"content": {"text/plain": {"schema": {"type": "string"}}}}},
    response_class=Response,
)
async def metrics(metrics: TheMetrics) -> Response:
    """Counters, histograms and gauges in Prometheus's text format."""
    return Response(metrics.text(), media_type=CONTENT_TYPE_LATEST)
