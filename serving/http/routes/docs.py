"""GET /openapi.json and GET /docs: what can be asked here, for programs and for people."""

from __future__ import annotations

from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import Any

from flask import Flask, Response, current_app, redirect, request, send_file
from werkzeug.exceptions import NotFound

from serving.http.openapi import Routes, document

blueprint = Routes("docs", __name__, tag="About")

_ASSETS = {"swagger-ui.css": "css", "swagger-ui-bundle.js": "js"}
"""Files of Swagger UI and their folders in its package: nothing comes from a third-party host."""

_PAGE = """<!doctype html>
<html lang="en">
<meta charset="utf-8">
<meta name="viewport" content="width=device-width">
<title>paddleocr-hpi-serving</title>
<link rel="icon" href="data:,">
<link rel="stylesheet" href="docs/swagger-ui.css">
<div id="docs" data-url="openapi.json"></div>
<script src="docs/swagger-ui-bundle.js"></script>
<script src="docs/start.js"></script>
</html>
"""
"""Its links are relative: a proxy may put a prefix before every path."""
_START = """const docs = document.getElementById("docs");
SwaggerUIBundle({domNode: docs, url: docs.dataset.url, deepLinking: true, validatorUrl: null});
"""
_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; "
    "img-src 'self' blob: data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
_DAY = 86400


@blueprint.get("/openapi.json", responses=blueprint.answers({"application/json": dict[str, Any]}))
def openapi() -> Response:
    """This description, for programs."""
    text = _openapi_text(current_app._get_current_object())  # type: ignore[attr-defined]
    return Response(text, mimetype="application/json")


@cache
def _openapi_text(app: Flask) -> str:
    """It never changes; made for each request, it would hold up others where many ask for it."""
    return app.json.dumps(document(app)) + "\n"


@blueprint.get("/docs", responses=blueprint.answers({"text/html": str}))
def docs() -> Response:
    """This description, for people. Works offline."""
    if request.path.endswith("/"):
        return redirect("../docs", Response=Response)  # type: ignore[return-value]
    response = Response(_PAGE, mimetype="text/html")
    response.headers["Content-Security-Policy"] = _POLICY
    return response


@blueprint.route("/docs/start.js")
def start() -> Response:
    """What opens the description in Swagger UI; a script of its own, for the policy's sake."""
    return Response(_START, mimetype="text/javascript")


@blueprint.route("/docs/<name>")
def asset(name: str) -> Response:
    """A file of Swagger UI."""
    if name not in _ASSETS:
        raise NotFound
    package = Path(str(files("flask_openapi3_swagger")))
    return send_file(package / "templates" / "swagger" / _ASSETS[name] / name, max_age=_DAY)
