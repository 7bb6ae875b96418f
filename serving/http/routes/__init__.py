"""One file a group of addresses."""

from serving.http.routes import docs, health, ocr, paddlex, pipelines

BLUEPRINTS = (
    ocr.blueprint,
    paddlex.blueprint,
    pipelines.blueprint,
    health.blueprint,
    docs.blueprint,
)
