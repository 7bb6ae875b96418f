"""One file a group of addresses."""

from serving.http.routes import docs, health, metrics, ocr, paddlex, page, pipelines

__all__ = ["BLUEPRINTS", "page"]

BLUEPRINTS = (
    ocr.blueprint,
    paddlex.blueprint,
    pipelines.blueprint,
    health.blueprint,
    metrics.blueprint,
    docs.blueprint,
)
