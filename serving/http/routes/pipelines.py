"""GET /ocr/v1: what is served here."""

from __future__ import annotations

from flask import Blueprint, Response, current_app

from serving.http.context import json_response
from serving.http.service import Service

blueprint = Blueprint("pipelines", __name__)


@blueprint.get("/ocr/v1")
def index() -> Response:
    """The pipelines, their models and the engines in force; how the last reload went."""
    service: Service = current_app.extensions["ocr"]
    state = current_app.extensions["ocr.state"]()
    return json_response({"pipelines": service.registry.describe(), **state})
