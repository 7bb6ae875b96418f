"""What every route that reads does with the service."""

from __future__ import annotations

import time
from collections.abc import Generator, Mapping, Sequence

from flask import request
from werkzeug.exceptions import ClientDisconnected

from serving.download import Url
from serving.http.context import add_timing
from serving.http.gunicorn.sockets import hung_up
from serving.http.logs import add_log_fields
from serving.http.service import Reading, Service, Work
from serving.http.turns import Gone


def fetch_documents(service: Service, sent: Sequence[bytes | Url]) -> list[bytes]:
    """What was sent, and what its URLs lead to. Holds no place meanwhile.

    Raises what `UrlFetcher.fetch` raises; ClientDisconnected when the caller has gone.
    """
    if not any(isinstance(document, Url) for document in sent):
        return [document for document in sent if isinstance(document, bytes)]
    connection = request.environ.get("gunicorn.socket")

    def cancel() -> None:
        if hung_up(connection):
            raise ClientDisconnected

    start = time.perf_counter()
    documents = service.fetcher.fetch(sent, cancel)
    add_timing({"fetch": (time.perf_counter() - start) * 1e3})
    return documents


def read_documents(service: Service, work: Work) -> list[Reading]:
    """All pages of a request, timed and noted in the log; or none, and an error.

    Raises what `Service.read` raises; ClientDisconnected when the caller has gone.
    """
    readings = list(read_pages(service, work))
    add_timing(total_timing(readings))
    return readings


def read_pages(service: Service, work: Work) -> Generator[Reading, None, None]:
    """The pages as they are read, noted in the log. Close it to give up what is left.

    Only the first `next` needs the request at hand. Raises as `read_documents`.
    """
    environ = request.environ
    add_log_fields(environ, pipeline=work.pipeline, images=len(work.documents))
    connection = environ.get("gunicorn.socket")
    pages = lines = 0
    try:
        for reading in service.read(work, gone=lambda: hung_up(connection)):
            pages += 1
            lines += len(reading.page.lines)
            add_log_fields(environ, pages=pages, lines=lines)
            yield reading
    except Gone:
        raise ClientDisconnected from None


def total_timing(readings: list[Reading]) -> dict[str, float]:
    """Milliseconds by stage, all pages together."""
    total: dict[str, float] = {}
    for reading in readings:
        add_up(total, reading.page.timing)
    return total


def add_up(total: dict[str, float], timing: Mapping[str, float]) -> None:
    """Add a page's milliseconds by stage to those of others."""
    for stage, milliseconds in timing.items():
        total[stage] = total.get(stage, 0.0) + milliseconds
