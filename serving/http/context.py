"""What every answer has: JSON of one kind, X-Request-Id, Server-Timing and nosniff."""

from __future__ import annotations

import json
import re
import time
import uuid
from collections.abc import Mapping
from http import HTTPStatus
from typing import Any

from flask import Flask, Response, current_app, g, request

_SANE = re.compile(r"[A-Za-z0-9._:/+=@-]{1,128}")


def register(app: Flask) -> None:
    """Number and time every request of `app`."""
    app.before_request(_begin)
    app.after_request(_end)


def add_timing(stages: Mapping[str, float]) -> None:
    """Milliseconds by stage, added to those of this request."""
    for stage, milliseconds in stages.items():
        g.timing[stage] = g.timing.get(stage, 0.0) + milliseconds


def json_response(data: Any, status: int = 200) -> Response:
    """`data` as JSON, UTF-8, keys in the order given."""
    text = current_app.json.dumps(data)
    return Response(text + "\n", status=status, mimetype="application/json")


def raw_answer(status: int, body: Any, request_id: str) -> bytes:
    """An answer to what never reaches the app; the connection is closed after it."""
    data = json.dumps(body, ensure_ascii=False).encode() + b"\n"
    lines = (
        f"HTTP/1.1 {status} {HTTPStatus(status).phrase}",
        "Content-Type: application/json",
        f"Content-Length: {len(data)}",
        f"X-Request-Id: {request_id}",
        "X-Content-Type-Options: nosniff",
        "Server-Timing: total;dur=0.0",
        "Connection: close\r\n\r\n",
    )
    return "\r\n".join(lines).encode() + data


def request_id(given: str = "") -> str:
    """The caller's own X-Request-Id where it is short and plain; else 32 hexadecimal digits."""
    return given if _SANE.fullmatch(given) else uuid.uuid4().hex


def _begin() -> None:
    g.start = time.perf_counter()
    g.timing = {}
    g.request_id = request_id(request.headers.get("X-Request-Id", ""))


def _end(response: Response) -> Response:
    total = (time.perf_counter() - g.start) * 1e3
    stages = {**g.timing, "total": total}
    response.headers["X-Request-Id"] = g.request_id
    response.headers["X-Content-Type-Options"] = "nosniff"
    response.headers["Server-Timing"] = ", ".join(
        f"{stage};dur={milliseconds:.1f}" for stage, milliseconds in stages.items()
    )
    return response
