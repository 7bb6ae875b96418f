"""POST /ocr/v1/NAME: an image or document in, its text out."""

from __future__ import annotations

import json
import time
from collections.abc import Generator, Iterator
from itertools import chain, islice
from typing import Any, cast

from flask import Response, current_app, g, request
from werkzeug.datastructures import MIMEAccept
from werkzeug.exceptions import ClientDisconnected

from serving.errors import BadRequest
from serving.http.body import Body
from serving.http.context import add_timing, json_response
from serving.http.errors import error_answer
from serving.http.logs import add_log_fields
from serving.http.openapi import READING_ERRORS, Routes
from serving.http.schemas import FailedPage, Format, OcrQuery, PagesAnswer, PipelinePath
from serving.http.service import Draw, ReadRequest, Service
from serving.http.uploads import BODIES, read_uploads
from serving.imaging.formats import PageRanges
from serving.output.formats import DOCUMENTS
from serving.output.image import drawn_png, page_jpeg
from serving.output.paddlex import InferAnswer, infer_answer
from serving.output.pages import (
    Failure,
    PageAnswer,
    PlacedLine,
    ReadPage,
    hints,
    page_answer,
    placed_lines,
    read_pages,
    rounded,
    total_timing,
)

blueprint = Routes("ocr", __name__, tag="Reading")

NDJSON = "application/x-ndjson"
"""A JSON object a line."""
_FORMATS: dict[str, Format] = {
    "application/json": "lines",
    "image/png": "image",
    NDJSON: "pages",
    **{document.media_type: name for name, document in DOCUMENTS.items()},
}
"""By what Accept asks for."""
_ANSWERS = {
    "application/json": list[PlacedLine | FailedPage] | PagesAnswer | InferAnswer,
    "image/png": bytes,
    NDJSON: str,  # a PageAnswer a line, then the rest of a PagesAnswer; or an ErrorAnswer
    **{document.media_type: document.schema for document in DOCUMENTS.values()},
}


@blueprint.post(
    "/ocr/v1/<name>",
    openapi_extensions=blueprint.body(BODIES),
    responses=blueprint.answers(_ANSWERS, 404, *READING_ERRORS),
)
def read(path: PipelinePath, query: OcrQuery) -> Response:
    """Read the text of the images or documents in the body."""
    service: Service = current_app.extensions["ocr"]
    accept = request.accept_mimetypes
    form = query.format or _preferred(accept)
    if query.pictures and form != "pages":
        raise BadRequest(f"pictures come with format=pages, not with format={form}")
    if query.partial and form not in ("lines", "pages"):
        raise BadRequest(
            f"partial comes with format=lines or format=pages; format={form} has no place for an "
            "error"
        )
    ranges = PageRanges.parse(query.pages)
    own_result = form == "paddlex" and query.pdf_text == "ignore"
    pipeline = service.registry.get(path.name, paddlex=own_result)
    body = Body.of(request.environ)
    service.admit(body)
    start = time.perf_counter()
    uploads = read_uploads(request.content_type or "", body, service.settings.max_pages)
    add_timing({"receive": (time.perf_counter() - start) * 1e3})
    documents = service.fetch(uploads, request.environ)
    if form == "paddlex" and len(documents) > 1:
        raise BadRequest("format=paddlex answers for one document; send them one by one")
    options, check = query.options(), None
    if form in DOCUMENTS:
        options, check = DOCUMENTS[form].options(options), DOCUMENTS[form].check
    wanted = ReadRequest(
        path.name,
        pipeline,
        documents,
        options,
        request.environ,
        pdf_dpi=query.pdf_dpi,
        ranges=ranges,
        pdf_text=query.pdf_text == "auto",
        partial=query.partial,
        draw=_draw(form, query.pictures),
        check=check,
        one_page=form == "image",
    )
    pages = service.read(wanted)
    if form == "pages" and accept.best_match(["application/json", NDJSON]) == NDJSON:
        return _stream(pages, pipeline.to_dict())
    return _answer(form, wanted, list(pages), service)


def _preferred(accept: MIMEAccept) -> Format:
    """The format of the Accept header; lines where it has none of ours."""
    best = max(_FORMATS, key=accept.quality)  # the first of equals: JSON
    return _FORMATS[best] if accept.quality(best) > 0 else "lines"


def _draw(form: Format, pictures: bool) -> Draw | None:
    if form == "image":
        return drawn_png
    return page_jpeg if pictures else None


def _answer(
    form: Format, wanted: ReadRequest, results: list[ReadPage | Failure], service: Service
) -> Response:
    pages = read_pages(results)
    add_timing(total_timing(pages))
    match form:
        case "lines":
            lines: list[PlacedLine | FailedPage] = []
            for result in results:
                if isinstance(result, ReadPage):
                    lines += placed_lines(result)
                else:
                    lines.append(_failed(result, g.request_id))
            response = json_response(lines)
        case "image":
            response = Response(pages[0].picture, mimetype="image/png")
        case "pages":
            response = json_response(
                PagesAnswer(
                    request_id=g.request_id,
                    pages=[_page(result, g.request_id) for result in results],
                    timing=rounded(total_timing(pages)),
                    engine=wanted.pipeline.to_dict(),
                )
            )
        case "paddlex":
            settings = wanted.pipeline.settings(wanted.options)
            answer = infer_answer(wanted.documents[0], pages, settings, g.request_id)
            response = json_response(answer)
        case _:
            document = DOCUMENTS[form]
            start = time.perf_counter()
            body = document.write(pages, wanted.documents, service.decoder)
            add_timing({"write": (time.perf_counter() - start) * 1e3})
            response = Response(body, mimetype=document.media_type)
    if hint := hints(pages):
        response.headers["X-OCR-Hint"] = hint
    return response


def _page(result: ReadPage | Failure, request_id: str) -> PageAnswer | FailedPage:
    return page_answer(result) if isinstance(result, ReadPage) else _failed(result, request_id)


def _failed(failure: Failure, request_id: str) -> FailedPage:
    failure.error.index = None  # `image` says it
    error = error_answer(failure.error, request_id)[1]["error"]
    page = {} if failure.number is None else {"page": failure.number}
    return cast(FailedPage, {"image": failure.image, **page, "error": error})


def _stream(pages: Generator[ReadPage | Failure, None, None], engine: Any) -> Response:
    """`format=pages` as NDJSON: a line a page, sent when it is read; then the rest of the answer.

    Waits for the first page: an error before it has its own status. A later one is the last line,
    in the form of every error. An answer without such a last line was cut off.
    """
    first = list(islice(pages, 1))
    # The rest is read after Flask has let go of the request.
    lines = _ndjson(chain(first, pages), engine, request.environ, g.request_id)
    response = Response(lines, mimetype=NDJSON)
    response.headers["X-Accel-Buffering"] = "no"  # nginx would hold the lines back
    response.call_on_close(pages.close)
    return response


def _ndjson(
    pages: Iterator[ReadPage | Failure], engine: Any, environ: dict[str, Any], request_id: str
) -> Iterator[str]:
    timing: dict[str, float] = {}
    add_log_fields(environ, complete=False)
    try:
        for result in pages:
            for stage, milliseconds in total_timing(read_pages([result])).items():
                timing[stage] = timing.get(stage, 0.0) + milliseconds
            yield _line({**_page(result, request_id), "pages": result.total})
    except ClientDisconnected:
        return
    except Exception as error:
        _, body = error_answer(error, request_id)
        add_log_fields(environ, error=body["error"]["code"])
        yield _line(body)
    else:
        add_log_fields(environ, complete=True)
        yield _line({"request_id": request_id, "timing": rounded(timing), "engine": engine})


def _line(data: Any) -> str:
    return json.dumps(data, ensure_ascii=False, separators=(",", ":")) + "\n"
