"""POST /ocr and GET /health as PaddleX's basic serving has them."""

from __future__ import annotations

from flask import Response, current_app, g, request

from serving.http.body import Body
from serving.http.context import json_response
from serving.http.openapi import READING_ERRORS, Routes
from serving.http.paddlex import (
    HealthAnswer,
    InferAnswer,
    InferError,
    InferRequest,
    answer,
    parse_infer,
    pictures,
)
from serving.http.reading import fetch_documents, read_documents
from serving.http.service import Service, Work

blueprint = Routes("paddlex", __name__, tag="PaddleX")


@blueprint.post(
    "/ocr",
    openapi_extensions=blueprint.body({"application/json": InferRequest}),
    responses=blueprint.answers(
        {"application/json": InferAnswer}, *READING_ERRORS, error=InferError
    ),
)
def infer() -> Response:
    """Read one document with the first pipeline; PaddleX's request and answer."""
    service: Service = current_app.extensions["ocr"]
    name = service.registry.names[0]
    reader = service.registry.get(name)
    body = Body.of(request.environ)
    service.let_in(body)
    asked = parse_infer(body.read())
    options = asked.options()
    draw = None if asked.visualize is False else pictures
    [document] = fetch_documents(service, [asked.file])
    readings = read_documents(service, Work(name, reader, [document], options, draw=draw))
    log_id = asked.logId or g.request_id
    return json_response(answer(document, readings, reader.settings(options), log_id))


@blueprint.get("/health", responses=blueprint.answers({"application/json": HealthAnswer}))
def health() -> Response:
    """PaddleX's own health check; see also /health/live and /health/ready."""
    return json_response({"logId": g.request_id, "errorCode": 0, "errorMsg": "Healthy"})
