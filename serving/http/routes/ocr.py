"""POST /ocr/v1/NAME: an image or document in, its text out."""

from __future__ import annotations

import time

from flask import Blueprint, Response, current_app, g, request

from serving.errors import BadRequest
from serving.http import formats, paddlex
from serving.http.body import Body
from serving.http.context import add_timing, json_response
from serving.http.pictures import drawn_png
from serving.http.query import Format, parse_query
from serving.http.reading import fetch_documents, read_documents
from serving.http.service import Reading, Service, Work
from serving.http.uploads import read_uploads

blueprint = Blueprint("ocr", __name__)


@blueprint.post("/ocr/v1/<name>")
def read(name: str) -> Response:
    """Read the text of the images or documents in the body."""
    service: Service = current_app.extensions["ocr"]
    query = parse_query(request.args)
    form = formats.chosen(query.format, request.accept_mimetypes)
    reader = service.registry.get(name)
    body = Body.of(request.environ)
    service.let_in(body)
    start = time.perf_counter()
    sent = read_uploads(request.content_type or "", body, service.settings.max_pages)
    add_timing({"receive": (time.perf_counter() - start) * 1e3})
    documents = fetch_documents(service, sent)
    if form == "paddlex" and len(documents) > 1:
        raise BadRequest("format=paddlex answers for one document; send them one by one")
    work = Work(
        reader,
        documents,
        query.options(),
        pdf_dpi=query.pdf_dpi,
        draw=drawn_png if form == "image" else None,
        one_page=form == "image",
    )
    readings = read_documents(service, name, work)
    return _answer(form, work, readings)


def _answer(form: Format, work: Work, readings: list[Reading]) -> Response:
    match form:
        case "lines":
            return formats.lines(readings)
        case "text":
            return formats.text(readings)
        case "image":
            return formats.image(readings)
        case "pages":
            engine = work.reader.describe()
            return formats.pages(readings, request_id=g.request_id, engine=engine)
        case "paddlex":
            settings = work.reader.settings(work.options)
            return json_response(
                paddlex.answer(work.documents[0], readings, settings, g.request_id)
            )
