"""What every route that reads does with the service."""

from __future__ import annotations

from flask import request
from werkzeug.exceptions import ClientDisconnected

from serving.http.context import add_timing
from serving.http.logs import note
from serving.http.service import Reading, Service, Work
from serving.http.sockets import hung_up
from serving.http.turns import Gone


def read_documents(service: Service, work: Work) -> list[Reading]:
    """All pages of a request, timed and noted in the log; or none, and an error.

    Raises what `Service.read` raises; ClientDisconnected when the caller has gone.
    """
    note(request.environ, pipeline=work.pipeline, images=len(work.documents))
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
