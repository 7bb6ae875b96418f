"""The Flask app. Its routes are in routes/, its work in service.py."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from importlib.metadata import version
from typing import Any

from flask.json.provider import DefaultJSONProvider
from flask_cors import CORS
from flask_openapi3 import Info, OpenAPI

from serving.http import context, errors, metrics
from serving.http.admission import Admission
from serving.http.body import BodyGuard
from serving.http.keys import Keys, require_keys
from serving.http.registry import Registry
from serving.http.routes import docs, jobs, kserve, ocr, paddlex, page, status
from serving.http.service import Service
from serving.http.settings import Settings


class _Json(DefaultJSONProvider):
    ensure_ascii = False
    sort_keys = False


class App(OpenAPI):
    """The app, and the service to close when its worker ends."""

    json_provider_class = _Json
    service: Service


def create_app(
    settings: Settings,
    admission: Admission | None = None,
    state: Callable[[], Mapping[str, Any]] = dict,
    problem: Callable[[], str | None] = lambda: None,
    keys: Keys | None = None,
) -> App:
    """Build the app of one worker process.

    Until `app.service.registry` has loaded the pipelines, requests get 503.
    admission: shared by all workers, made before the fork; without it, this worker's own.
    state: what GET /ocr/v1 shows beside the pipelines: the generation, the last reload.
    problem: why no worker is ready, if the master knows.
    keys: of which every request needs one; without it, none.
    Close `app.service` at the end.
    """
    app = App(
        "serving.http",
        info=Info(title="paddleocr-hpi-serving", version=version("paddleocr-hpi-serving")),
        security_schemes={},
        doc_ui=False,
        # The library adds its own answer where this one is not described, and every route has it.
        validation_error_status=500,
        static_folder=None,
    )
    app.url_map.strict_slashes = False
    registry = Registry(tuple(settings.pipelines), problem)
    app.service = Service(settings, registry, admission or Admission(settings.permits))
    app.extensions["ocr"] = app.service
    app.extensions["ocr.state"] = state
    context.register(app)
    errors.register(app)
    metrics.count_requests(app)
    require_keys(app, keys)
    if settings.allow_origins:
        exposed = ["X-Request-Id", "Server-Timing", "Retry-After", "X-OCR-Hint"]
        CORS(app, origins=settings.allow_origins, expose_headers=exposed)
    for group in (ocr, paddlex, jobs, kserve, status, docs):
        app.register_api(group.blueprint)
    app.register_blueprint(page.blueprint)  # for people: no part of the API
    app.wsgi_app = BodyGuard(app.wsgi_app, settings)  # type: ignore[method-assign]
    return app
