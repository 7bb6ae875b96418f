"""How the server is: GET /health/live, /health/ready, /metrics and /ocr/v1."""

from __future__ import annotations

from typing import Literal, NotRequired

from flask import Response, current_app
from typing_extensions import TypedDict

from serving.http.context import json_response
from serving.http.openapi import Routes
from serving.http.registry import PipelineAnswer
from serving.http.service import Service
from serving.output.pages import described

blueprint = Routes("status", __name__, tag="Health")


@described
class ReloadError(TypedDict):
    """Why the last reload, or the last replacement of a worker, failed."""

    time: str
    message: str


@described
class ReloadAnswer(TypedDict):
    """How it stands with loading files anew."""

    state: Literal["idle", "loading", "finishing"]
    """`finishing`: the new ones serve, the old ones finish what they have in work."""
    error: ReloadError | None


@described
class PipelinesAnswer(TypedDict):
    """What is served here."""

    pipelines: list[PipelineAnswer]
    generation: NotRequired[int]
    """Grows by one with every reload that succeeds."""
    reload: NotRequired[ReloadAnswer]


@described
class HealthState(TypedDict):
    """Of GET /health/live and /health/ready."""

    status: str


_HEALTH = {"application/json": HealthState}


@blueprint.get("/health/live", responses=blueprint.answers(_HEALTH))
def live() -> Response:
    """The process answers."""
    return json_response({"status": "live"})


@blueprint.get("/health/ready", responses=blueprint.answers(_HEALTH, 503))
def ready() -> Response:
    """Every pipeline has answered a real warm-up image."""
    service: Service = current_app.extensions["ocr"]
    service.registry.check_ready()
    return json_response({"status": "ready"})


@blueprint.get("/metrics", responses=blueprint.answers({"text/plain": str}, 401))
def metrics() -> Response:
    """Figures of all workers, for Prometheus."""
    service: Service = current_app.extensions["ocr"]
    return Response(
        service.metrics.scrape(), content_type="text/plain; version=0.0.4; charset=utf-8"
    )


@blueprint.get("/ocr/v1", responses=blueprint.answers({"application/json": PipelinesAnswer}, 401))
def pipelines() -> Response:
    """The pipelines, their models and the engines in force; how the last reload went."""
    service: Service = current_app.extensions["ocr"]
    state = current_app.extensions["ocr.state"]()
    return json_response({"pipelines": service.registry.to_list(), **state})
