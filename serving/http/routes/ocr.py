"""POST /ocr/v1/NAME: an image or document in, its text out."""

from __future__ import annotations

import json
import time
from collections.abc import Generator, Iterator
from itertools import chain, islice
from typing import Annotated, Any, Literal, NotRequired, cast

from flask import Response, current_app, g, request
from pydantic import BaseModel, ConfigDict, Field
from typing_extensions import TypedDict
from werkzeug.datastructures import MIMEAccept
from werkzeug.exceptions import ClientDisconnected

from serving.config.options import Options, PdfText
from serving.errors import BadRequest
from serving.http.body import Body
from serving.http.context import add_timing, json_response
from serving.http.errors import ErrorDetail, error_answer
from serving.http.logs import add_log_fields
from serving.http.openapi import READING_ERRORS, Routes
from serving.http.registry import ModelAnswer
from serving.http.service import Draw, ReadRequest, Service
from serving.http.uploads import BODIES, read_uploads
from serving.imaging.formats import RANGES_PATTERN, PageRanges
from serving.output.formats import DOCUMENTS, DocumentName
from serving.output.image import drawn_png, page_jpeg
from serving.output.paddlex import InferAnswer, infer_answer
from serving.output.pages import (
    Failure,
    PageAnswer,
    PlacedLine,
    ReadPage,
    described,
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
Format = Literal["lines", "pages", "image", "paddlex", DocumentName]


def _no_null(schema: dict[str, Any]) -> None:
    """A parameter that is not given is absent: a query has no null."""
    for name, field in schema["properties"].items():
        [kind] = [kind for kind in field.pop("anyOf", [field]) if kind != {"type": "null"}]
        schema["properties"][name] = {**field, **kind}
        schema["properties"][name].pop("title", None)
        if field.get("default", ...) is None:
            del schema["properties"][name]["default"]


class PipelinePath(BaseModel):
    """Of `/ocr/v1/NAME` and `/v2/models/NAME`."""

    name: str


class CallerOptions(Options):
    """Overrides for this request alone, within what a caller may ask for."""

    text_det_max_side_limit: Annotated[int, Field(ge=1, le=4000)] | None = None
    """The long side never has more pixels than that. A caller cannot ask for more than 4000."""

    def options(self) -> Options:
        """The overrides alone."""
        return Options(**self.model_dump(include=set(Options.model_fields)))


class OcrQuery(CallerOptions):
    """`POST /ocr/v1/NAME?...`: the form of the answer, and overrides for this request alone."""

    model_config = ConfigDict(json_schema_extra=_no_null)

    format: Format | None = None
    """The form of the answer; default: what Accept prefers, else lines."""
    pdf_dpi: Annotated[int, Field(ge=36, le=1200)] = 144
    """Dots per inch at which pages of a PDF are drawn; boxes are in their pixels."""
    pages: Annotated[str, Field(json_schema_extra={"pattern": RANGES_PATTERN})] = "1-"
    """Which pages of each document are read, for example 1-3,7 or 2-; no other is decoded."""
    pdf_text: PdfText = "ignore"
    """auto: take a PDF page's own text where it is all there, and read the other pages."""
    partial: bool = False
    """With format=lines or pages: what cannot be read has an error, and the rest is answered."""
    pictures: bool = False
    """With format=pages: each page's picture too, for viewers that cannot draw the document."""


@described
class FailedPage(TypedDict):
    """With `partial`: a document, or a page of one, that cannot be read."""

    image: int
    page: NotRequired[int]
    """Of a document whose other pages may be fine."""
    error: ErrorDetail


@described
class PagesAnswer(TypedDict):
    """The answer of `format=pages`."""

    request_id: str
    pages: list[PageAnswer | FailedPage]
    timing: dict[str, float]
    """Milliseconds by stage, all pages together."""
    engine: dict[str, ModelAnswer]
    """What read it, by section of the pipeline's YAML."""


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
