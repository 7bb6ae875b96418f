"""GET /: the page that people try first, and its files."""

from __future__ import annotations

from pathlib import Path

from flask import Blueprint, Response, send_from_directory

blueprint = Blueprint("page", __name__)

_FILES = Path(__file__).resolve().parent.parent / "page"

_HEADERS = {
    "Content-Security-Policy": "; ".join(
        (
            "default-src 'none'",
            "script-src 'self'",
            "style-src 'self'",
            "img-src 'self' blob: data:",
            "connect-src 'self'",
            "base-uri 'none'",
            "form-action 'none'",
            "frame-ancestors 'none'",
            "require-trusted-types-for 'script'",
        )
    ),
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Permissions-Policy": "camera=(), display-capture=(), geolocation=(), microphone=(), usb=()",
}
"""What is read is a stranger's document: nothing of it may run, and nothing leaves the server."""


@blueprint.get("/")
def index() -> Response:
    """The page. It needs no key; what it asks of the server may."""
    return send_from_directory(_FILES, "index.html", max_age=0)


@blueprint.get("/page/<name>")
def file(name: str) -> Response:
    """A style sheet, script or picture of the page. Browsers ask anew whether it has changed."""
    return send_from_directory(_FILES, name, max_age=0)


@blueprint.after_request
def guard(response: Response) -> Response:
    """Add the page's security headers."""
    response.headers.update(_HEADERS)
    return response
