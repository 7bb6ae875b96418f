"""One file a group of addresses."""

from serving.http.routes import health, ocr, paddlex, page, pipelines

BLUEPRINTS = (
    page.blueprint,
    ocr.blueprint,
    paddlex.blueprint,
    pipelines.blueprint,
    health.blueprint,
)
