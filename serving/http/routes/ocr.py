"""POST /ocr/v1/NAME: an image or document in, its text out."""

from __future__ import annotations

import time

from flask import Response, current_app, g, request

from serving.errors import BadRequest
from serving.http import formats, paddlex
from serving.http.body import Body
from serving.http.context import add_timing, json_response
from serving.http.openapi import READING_ERRORS, Routes
from serving.http.query import Format, OcrQuery, PipelinePath
from serving.http.reading import fetch_documents, read_documents, read_pages
from serving.http.service import Draw, Reading, Service, Work
from serving.http.stream import stream
from serving.http.uploads import BODIES, read_uploads
from serving.output.image import drawn_png, plain

blueprint = Routes("ocr", __name__, tag="Reading")


@blueprint.post(
    "/ocr/v1/<name>",
    openapi_extensions=blueprint.body(BODIES),
    responses=blueprint.answers(formats.ANSWERS, 404, *READING_ERRORS),
)
def read(path: PipelinePath, query: OcrQuery) -> Response:
    """Read the text of the images or documents in the body."""
    service: Service = current_app.extensions["ocr"]
    form = formats.chosen(query.format, request.accept_mimetypes)
    if query.pictures and form != "pages":
        raise BadRequest(f"pictures come with format=pages, not with format={form}")
    reader = service.registry.get(path.name)
    body = Body.of(request.environ)
    service.let_in(body)
    start = time.perf_counter()
    sent = read_uploads(request.content_type or "", body, service.settings.max_pages)
    add_timing({"receive": (time.perf_counter() - start) * 1e3})
    documents = fetch_documents(service, sent)
    if form == "paddlex" and len(documents) > 1:
        raise BadRequest("format=paddlex answers for one document; send them one by one")
    work = Work(
        path.name,
        reader,
        documents,
        query.options(),
        pdf_dpi=query.pdf_dpi,
        draw=_draw(form, query.pictures),
        one_page=form == "image",
    )
    if formats.streams(form, request.accept_mimetypes):
        return stream(read_pages(service, work), reader.to_dict())
    readings = read_documents(service, work)
    return _answer(form, work, readings)


def _draw(form: Format, pictures: bool) -> Draw | None:
    if form == "image":
        return drawn_png
    return plain if pictures else None


def _answer(form: Format, work: Work, readings: list[Reading]) -> Response:
    match form:
        case "lines":
            return formats.lines(readings)
        case "text":
            return formats.text(readings)
        case "image":
            return formats.image(readings)
        case "pages":
            engine = work.reader.to_dict()
            return formats.pages(readings, request_id=g.request_id, engine=engine)
        case "paddlex":
            settings = work.reader.settings(work.options)
            return json_response(
                paddlex.answer(work.documents[0], readings, settings, g.request_id)
            )
