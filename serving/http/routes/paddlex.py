"""POST /ocr and GET /health as PaddleX's basic serving has them."""

from __future__ import annotations

from typing import Literal

from flask import Response, current_app, g, request
from pydantic import BaseModel, ConfigDict, ValidationError
from pydantic.alias_generators import to_snake
from typing_extensions import TypedDict

from serving.config.options import Options
from serving.errors import BadRequest, UnsupportedMedia
from serving.http.body import Body
from serving.http.context import add_timing, json_response
from serving.http.errors import ErrorAnswer
from serving.http.openapi import READING_ERRORS, Routes
from serving.http.service import ReadRequest, Service
from serving.http.uploads import Base64OrUrl, first_finding, parse_json
from serving.output.paddlex import InferAnswer, infer_answer, pictures
from serving.output.pages import described, read_pages, total_timing

blueprint = Routes("paddlex", __name__, tag="PaddleX")


class InferOptions(BaseModel):
    """Overrides in PaddleX's names; what is not given is as the YAML says."""

    model_config = ConfigDict(frozen=True)  # unknown fields are passed over, as PaddleX does

    useDocOrientationClassify: bool | None = None
    useDocUnwarping: bool | None = None
    useTextlineOrientation: bool | None = None
    textDetLimitSideLen: int | None = None
    textDetLimitType: str | None = None
    textDetThresh: float | None = None
    textDetBoxThresh: float | None = None
    textDetUnclipRatio: float | None = None
    textRecScoreThresh: float | None = None
    returnWordBox: bool | None = None
    visualize: bool | None = None

    def options(self) -> Options:
        """The overrides. Raises BadRequest."""
        names = InferOptions.model_fields.keys() - {"visualize"}
        try:
            return Options(**{to_snake(name): getattr(self, name) for name in names})
        except ValidationError as error:
            raise BadRequest(first_finding(error)) from None


class InferRequest(InferOptions):
    """The body of `POST /ocr`."""

    file: Base64OrUrl
    fileType: Literal[0, 1] | None = None
    """0: PDF, 1: image. Not needed: the bytes tell."""
    logId: str | None = None


@described
class InferError(ErrorAnswer):
    """An error in both forms."""

    logId: str
    errorCode: int
    errorMsg: str


@described
class HealthAnswer(TypedDict):
    """PaddleX's own health check."""

    logId: str
    errorCode: Literal[0]
    errorMsg: str


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
    if (request.mimetype or "").startswith("multipart/"):
        raise UnsupportedMedia(
            'POST /ocr takes PaddleX\'s JSON, {"file": "<base64 or URL>", "fileType": 1}; a form '
            "goes to /ocr/v1/NAME"
        )
    wanted = parse_json(body.read(), InferRequest)
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
