"""GET /ocr/v1: what is served here."""

from __future__ import annotations

from flask import Response, current_app

from serving.http.api import Routes
from serving.http.context import json_response
from serving.http.registry import PipelinesAnswer
from serving.http.service import Service

blueprint = Routes("pipelines", __name__, tag="Health")


@blueprint.get("/ocr/v1", responses=blueprint.answers({"application/json": PipelinesAnswer}, 401))
def pipelines() -> Response:
    """The pipelines, their models and the engines in force; how the last reload went."""
    service: Service = current_app.extensions["ocr"]
    state = current_app.extensions["ocr.state"]()
    return json_response({"pipelines": service.registry.describe(), **state})
