"""What every route that reads does with the service."""

from __future__ import annotations

import time
from collections.abc import Sequence

from flask import request
from werkzeug.exceptions import ClientDisconnected

from serving.http.context import add_timing
from serving.http.logs import note
from serving.http.service import Reading, Service, Work
from serving.http.sockets import hung_up
from serving.http.turns import Gone
from serving.http.urls import Url


def fetch_documents(service: Service, sent: Sequence[bytes | Url]) -> list[bytes]:
    """What was sent, and what its URLs lead to. Holds no place meanwhile.

    Raises what `Fetcher.fetch` raises; ClientDisconnected when the caller has gone.
    """
    if not any(isinstance(document, Url) for document in sent):
        return [document for document in sent if isinstance(document, bytes)]
    connection = request.environ.get("gunicorn.socket")
    start = time.perf_counter()
    try:
        documents = service.fetcher.fetch(sent, gone=lambda: hung_up(connection))
    except Gone:
        raise ClientDisconnected from None
    add_timing({"fetch": (time.perf_counter() - start) * 1e3})
    return documents


def read_documents(service: Service, name: str, work: Work) -> list[Reading]:
    """All pages of a request, timed and noted in the log; or none, and an error.

    Raises what `Service.read` raises; ClientDisconnected when the caller has gone.
    """
    note(request.environ, pipeline=name, images=len(work.documents))
    connection = request.environ.get("gunicorn.socket")
    try:
        readings = list(service.read(work, gone=lambda: hung_up(connection)))
    except Gone:
        raise ClientDisconnected from None
    add_timing(total_timing(readings))
    lines = sum(len(reading.page.lines) for reading in readings)
    note(request.environ, pages=len(readings), lines=lines)
    return readings


def total_timing(readings: list[Reading]) -> dict[str, float]:
    """Milliseconds by stage, all pages together."""
    total: dict[str, float] = {}
    for reading in readings:
        for stage, milliseconds in reading.page.timing.items():
            total[stage] = total.get(stage, 0.0) + milliseconds
    return total
