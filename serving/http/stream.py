"""`format=pages` as NDJSON: a line a page, sent as it is done."""

from __future__ import annotations

import json
from collections.abc import Generator, Iterator
from itertools import chain, islice
from typing import Any

from flask import Response, g, request
from werkzeug.exceptions import ClientDisconnected

from serving.http.errors import told
from serving.http.formats import NDJSON, page_answer, rounded
from serving.http.logs import add_log_fields
from serving.http.reading import add_up
from serving.http.service import Reading


def stream(readings: Generator[Reading, None, None], engine: Any) -> Response:
    """A line a page, with how many `pages` there are; then what `format=pages` has beside them.

    Waits for the first page: an error before it has its own status. One after it is the last line,
    in the form of every error. Without such a last line the answer was cut off.
    A caller that is slow to take its lines keeps no one else waiting: see turns.py.
    """
    first = list(islice(readings, 1))
    # What is left is read when the request is not at hand any more.
    lines = _lines(chain(first, readings), engine, request.environ, g.request_id)
    response = Response(lines, mimetype=NDJSON)
    response.headers["X-Accel-Buffering"] = "no"  # nginx would keep the lines back
    response.call_on_close(readings.close)
    return response


def _lines(
    readings: Iterator[Reading], engine: Any, environ: dict[str, Any], request_id: str
) -> Iterator[str]:
    timing: dict[str, float] = {}
    add_log_fields(environ, complete=False)
    try:
        for reading in readings:
            add_up(timing, reading.page.timing)
            yield _line({**page_answer(reading), "pages": reading.of})
    except ClientDisconnected:
        return
    except Exception as error:
        _, body = told(error, request_id)
        add_log_fields(environ, error=body["error"]["code"])
        yield _line(body)
    else:
        add_log_fields(environ, complete=True)
        yield _line({"request_id": request_id, "timing": rounded(timing), "engine": engine})


def _line(data: Any) -> str:
    return json.dumps(data, ensure_ascii=False, separators=(",", ":")) + "\n"
