"""Whether the process lives, and whether it can read."""

from __future__ import annotations

from flask import Response, current_app
from typing_extensions import TypedDict

from serving.errors import NotReady
from serving.http.api import Routes
from serving.http.context import described, json_response
from serving.http.service import Service

blueprint = Routes("health", __name__, tag="Health", url_prefix="/health")


@described
class Health(TypedDict):
    """How it is doing."""

    status: str


_HEALTH = {"application/json": Health}


@blueprint.get("/live", responses=blueprint.answers(_HEALTH))
def live() -> Response:
    """The process answers."""
    return json_response({"status": "live"})


@blueprint.get("/ready", responses=blueprint.answers(_HEALTH, 503))
def ready() -> Response:
    """Every pipeline has answered a real warm-up image."""
    service: Service = current_app.extensions["ocr"]
    if not service.registry.ready:
        names = ", ".join(service.registry.loading())
        raise NotReady(f"still loading: {names}")
    return json_response({"status": "ready"})
