"""One file a group of addresses."""

from serving.http.routes import docs, jobs, ocr, paddlex, page, status

__all__ = ["BLUEPRINTS", "page"]

BLUEPRINTS = (
    ocr.blueprint,
    paddlex.blueprint,
    jobs.blueprint,
    status.pipelines_blueprint,
    status.blueprint,
    status.metrics_blueprint,
    docs.blueprint,
)
