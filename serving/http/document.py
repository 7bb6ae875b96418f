"""The OpenAPI document of one server: the routes' own descriptions, and its pipelines' names."""

from __future__ import annotations

from typing import Any

from flask import Flask

_PIPELINE = "/ocr/v1/{name}"


def document(app: Flask) -> dict[str, Any]:
    """All that is served, as OpenAPI 3.1."""
    told: dict[str, Any] = app.api_doc  # type: ignore[attr-defined]
    [name] = [
        item for item in told["paths"][_PIPELINE]["post"]["parameters"] if item["in"] == "path"
    ]
    name["schema"] = {"type": "string", "enum": list(app.extensions["ocr"].registry.names)}
    return told
