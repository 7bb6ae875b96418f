"""Every error as the JSON of the contract. One table: error class, status, code."""

from __future__ import annotations

import logging
from typing import Any

from flask import Flask, Response, current_app, g, request
from werkzeug.exceptions import ClientDisconnected, HTTPException

from serving.errors import (
    BadRequest,
    Busy,
    InputError,
    NotReady,
    OcrError,
    TimedOut,
    TooLarge,
    Unauthorized,
    Undecodable,
    Unfetchable,
    UnsupportedMedia,
)
from serving.http.context import json_response
from serving.http.logs import note

_LOG = logging.getLogger("serving.http")

TABLE: dict[type[OcrError], tuple[int, str]] = {
    BadRequest: (400, "bad_request"),
    Unauthorized: (401, "unauthorized"),
    TooLarge: (413, "too_large"),
    UnsupportedMedia: (415, "unsupported_media"),
    Unfetchable: (422, "unfetchable"),
    Undecodable: (422, "undecodable"),
    Busy: (429, "busy"),
    NotReady: (503, "not_ready"),
    TimedOut: (504, "timeout"),
}
"""Errors on purpose. Any other OcrError, and any other exception, is a 500 and a bug."""

_CODES = dict(TABLE.values()) | {
    404: "not_found",
    405: "method_not_allowed",
    500: "internal",
}

CLIENT_GONE = 499
"""As nginx logs a caller that hung up; nobody reads the answer."""


def register(app: Flask) -> None:
    """Answer every error of `app` in JSON."""
    app.register_error_handler(OcrError, _on_purpose)
    app.register_error_handler(HTTPException, _of_http)
    app.register_error_handler(Exception, _bug)


def code_of(status: int) -> str:
    """The contract's code for a status; other 4xx are bad requests."""
    return _CODES.get(status, "bad_request" if status < 500 else "internal")


def error_body(code: str, message: str, request_id: str, **more: Any) -> dict[str, Any]:
    """The one form in which errors are told."""
    return {"error": {"code": code, "message": message, "request_id": request_id, **more}}


def _on_purpose(error: OcrError) -> Response:
    found = next((TABLE[kind] for kind in type(error).__mro__ if kind in TABLE), None)
    if found is None:
        return _bug(error)
    status, code = found
    index = error.index if isinstance(error, InputError) else None
    response = _answer(status, code, str(error), **({} if index is None else {"index": index}))
    if isinstance(error, Busy):
        response.headers["Retry-After"] = str(current_app.extensions["ocr"].turns.retry_after())
    if isinstance(error, Unauthorized):
        response.headers["WWW-Authenticate"] = 'Bearer realm="ocr-hpi"'
    return response


def _of_http(error: HTTPException) -> Response:
    if isinstance(error, ClientDisconnected):
        return _answer(CLIENT_GONE, "client_gone", "the caller hung up")
    status = error.code or 500
    message = error.description or error.name
    if status == 404 and request.routing_exception is not None:
        message = f"nothing is at {request.path}; GET /ocr/v1 names the pipelines"
    elif status == 405:
        methods = set(getattr(error, "valid_methods", None) or ()) - {"HEAD", "OPTIONS"}
        allowed = ", ".join(sorted(methods))
        message = f"{request.method} is not for {request.path}; use {allowed}"
    response = _answer(status, code_of(status), message)
    for name, value in error.get_headers():
        if name.lower() not in ("content-type", "content-length"):
            response.headers[name] = value
    return response


def _bug(error: Exception) -> Response:
    _LOG.error("internal error", exc_info=error, extra={"fields": {"request_id": g.request_id}})
    message = "internal error; the server's log says more under this request_id"
    return _answer(500, "internal", message)


def _answer(status: int, code: str, message: str, **more: Any) -> Response:
    note(request.environ, error=code)
    body = error_body(code, message, g.request_id, **more)
    if request.path == "/ocr":  # PaddleX's clients look for PaddleX's fields
        body |= {"logId": g.request_id, "errorCode": status, "errorMsg": message}
    return json_response(body, status)
