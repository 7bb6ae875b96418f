"""Every error as the JSON of the contract. One table: error class, status, code."""

from __future__ import annotations

import errno
import logging
from typing import Any, NotRequired

from flask import Flask, Response, current_app, g, request
from typing_extensions import TypedDict
from werkzeug.exceptions import ClientDisconnected, HTTPException

from serving.errors import (
    BadRequest,
    Busy,
    InputError,
    NotReady,
    OcrError,
    SpoolFull,
    TimedOut,
    TooLarge,
    Unauthorized,
    Undecodable,
    Unfetchable,
    UnsupportedMedia,
)
from serving.http.context import json_response
from serving.http.logs import add_log_fields
from serving.output.pages import described

_LOG = logging.getLogger("serving.http")

_STATUS: dict[type[OcrError], int] = {
    BadRequest: 400,
    Unauthorized: 401,
    TooLarge: 413,
    UnsupportedMedia: 415,
    Unfetchable: 422,
    Undecodable: 422,
    Busy: 429,
    NotReady: 503,
    TimedOut: 504,
    SpoolFull: 507,
}
TABLE = {kind: (status, kind.code) for kind, status in _STATUS.items()}
"""Expected errors. Any other OcrError, and any other exception, is a 500 and a bug."""

_CODES = dict(TABLE.values()) | {
    404: "not_found",
    405: "method_not_allowed",
    500: "internal",
}

JOBS = "/api/v2/ocr/"
"""Of PaddleOCR's job protocol."""

_MAX_LOGGED = 500
"""Characters of a message in the access log."""
CLIENT_GONE = 499
"""As nginx logs a caller that hung up; nobody reads the answer."""


@described
class ErrorDetail(TypedDict):
    """What is wrong."""

    code: str
    message: str
    request_id: str
    index: NotRequired[int]
    """Which of several images is at fault."""


@described
class ErrorAnswer(TypedDict):
    """The form of every error."""

    error: ErrorDetail


def register(app: Flask) -> None:
    """Answer every error of `app` in JSON."""
    app.register_error_handler(HTTPException, _of_http)
    app.register_error_handler(Exception, _raised)


def code_of(status: int) -> str:
    """The contract's code for a status; other 4xx are bad requests."""
    return _CODES.get(status, "bad_request" if status < 500 else "internal")


def error_body(code: str, message: str, request_id: str, **more: Any) -> dict[str, Any]:
    """The form of every error."""
    return {"error": {"code": code, "message": message, "request_id": request_id, **more}}


def error_answer(error: Exception, request_id: str) -> tuple[int, dict[str, Any]]:
    """Status and body for an error of the app. One that is a bug is logged."""
    if isinstance(error, OSError) and error.errno in (errno.EMFILE, errno.ENFILE):
        _LOG.error("a request failed: %s", error)
        error = NotReady("the server may open no more files: try again later")
    row = next((TABLE[kind] for kind in type(error).__mro__ if kind in TABLE), None)
    if row is None:
        _LOG.error("internal error", exc_info=error, extra={"fields": {"request_id": request_id}})
        message = "internal error; the server's log says more under this request_id"
        return 500, error_body("internal", message, request_id)
    status, code = row
    index = error.index if isinstance(error, InputError) else None
    more = {} if index is None else {"index": index}
    return status, error_body(code, str(error), request_id, **more)


def in_form_of(path: str, status: int, body: dict[str, Any]) -> dict[str, Any]:
    """The body of an error, in the form that the clients of the path's protocol expect."""
    error = body["error"]
    if path == "/ocr":  # PaddleX
        more = {"logId": error["request_id"], "errorCode": status, "errorMsg": error["message"]}
        return {**body, **more}
    if path.startswith(JOBS):  # PaddleOCR
        more = {"traceId": error["request_id"], "code": status, "msg": error["message"]}
        return {**body, **more}
    if f"{path}/".startswith("/v2/"):  # KServe
        return {"error": error["message"]}
    return body


def _raised(error: Exception) -> Response:
    response = _answer(*error_answer(error, g.request_id))
    if isinstance(error, Busy):
        response.headers["Retry-After"] = str(current_app.extensions["ocr"].retry_after())
    if isinstance(error, Unauthorized):
        response.headers["WWW-Authenticate"] = 'Bearer realm="ocr-hpi"'
    return response


def _of_http(error: HTTPException) -> Response:
    if isinstance(error, ClientDisconnected):
        gone = error_body("client_gone", "the caller hung up", g.request_id)
        return _answer(CLIENT_GONE, gone)
    status = error.code or 500
    message = error.description or error.name
    if status == 404 and request.routing_exception is not None:
        message = f"no such route: {request.path}; GET /ocr/v1 lists the pipelines"
    elif status == 405:
        methods = set(getattr(error, "valid_methods", None) or ()) - {"HEAD", "OPTIONS"}
        allowed = ", ".join(sorted(methods))
        message = f"{request.method} is not allowed for {request.path}; use {allowed}"
    response = _answer(status, error_body(code_of(status), message, g.request_id))
    for name, value in error.get_headers():
        if name.lower() not in ("content-type", "content-length"):
            response.headers[name] = value
    return response


def _answer(status: int, body: dict[str, Any]) -> Response:
    error = body["error"]
    add_log_fields(request.environ, error=error["code"], reason=error["message"][:_MAX_LOGGED])
    return json_response(in_form_of(request.path, status, body), status)
