"""The OpenAPI document of one server: the routes' own descriptions, and its pipelines' names."""

from __future__ import annotations

from typing import Any

from flask import Flask

from serving.http.keys import is_open

_PIPELINE = "/ocr/v1/{name}"


def document(app: Flask) -> dict[str, Any]:
    """All that is served, as OpenAPI 3.1."""
    told: dict[str, Any] = app.api_doc  # type: ignore[attr-defined]
    [name] = [
        item for item in told["paths"][_PIPELINE]["post"]["parameters"] if item["in"] == "path"
    ]
    name["schema"] = {"type": "string", "enum": list(app.extensions["ocr"].registry.names)}
    if app.extensions["ocr.keys"] is not None:
        _ask_for_keys(told)
    return told


def _ask_for_keys(told: dict[str, Any]) -> None:
    told["components"]["securitySchemes"] = {
        "bearer": {"type": "http", "scheme": "bearer"},
        "header": {"type": "apiKey", "in": "header", "name": "X-API-Key"},
    }
    for path, operations in told["paths"].items():
        if not is_open(path):
            for operation in operations.values():
                operation["security"] = [{"bearer": []}, {"header": []}]
