"""POST /ocr and GET /health as PaddleX's basic serving has them."""

from __future__ import annotations

from flask import Response, current_app, g, request
from pydantic import ValidationError

from serving.errors import BadRequest
from serving.http.body import Body
from serving.http.context import add_timing, json_response
from serving.http.openapi import READING_ERRORS, Routes
from serving.http.schemas import HealthAnswer, InferError, InferRequest
from serving.http.service import ReadRequest, Service
from serving.http.uploads import check_json, first_finding
from serving.output.paddlex import InferAnswer, infer_answer, pictures
from serving.output.pages import read_pages, total_timing

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
    pipeline = service.registry.get(name)
    body = Body.of(request.environ)
    service.admit(body)
    data = body.read()
    check_json(data, 1)
    try:
        wanted = InferRequest.model_validate_json(data)
    except ValidationError as error:
        raise BadRequest(first_finding(error)) from None
    options = wanted.options()
    draw = None if wanted.visualize is False else pictures
    [document] = service.fetch([wanted.file], request.environ)
    pages = read_pages(
        service.read(ReadRequest(name, pipeline, [document], options, request.environ, draw=draw))
    )
    add_timing(total_timing(pages))
    log_id = wanted.logId or g.request_id
    return json_response(infer_answer(document, pages, pipeline.settings(options), log_id))


@blueprint.get("/health", responses=blueprint.answers({"application/json": HealthAnswer}))
def health() -> Response:
    """PaddleX's own health check; see also /health/live and /health/ready."""
    return json_response({"logId": g.request_id, "errorCode": 0, "errorMsg": "Healthy"})
