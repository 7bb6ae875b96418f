"""Whether the process lives, and whether it can read."""

from __future__ import annotations

from flask import Blueprint, Response, current_app

from serving.errors import NotReady
from serving.http.context import json_response
from serving.http.service import Service

blueprint = Blueprint("health", __name__, url_prefix="/health")


@blueprint.get("/live")
def live() -> Response:
    """The process answers."""
    return json_response({"status": "live"})


@blueprint.get("/ready")
def ready() -> Response:
    """Every pipeline has answered a real warm-up image."""
    service: Service = current_app.extensions["ocr"]
    if not service.registry.ready:
        names = ", ".join(service.registry.loading())
        raise NotReady(f"still loading: {names}")
    return json_response({"status": "ready"})
