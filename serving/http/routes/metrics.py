"""GET /metrics: figures for Prometheus."""

from __future__ import annotations

from flask import Response, current_app

from serving.http.api import Routes
from serving.http.service import Service

blueprint = Routes("metrics", __name__, tag="Health")


@blueprint.get("/metrics", responses=blueprint.answers({"text/plain": str}, 401))
def metrics() -> Response:
    """Figures of all workers, for Prometheus."""
    service: Service = current_app.extensions["ocr"]
    return Response(
        service.metrics.scrape(), content_type="text/plain; version=0.0.4; charset=utf-8"
    )
