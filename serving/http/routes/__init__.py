"""One file a group of addresses."""

from serving.http.routes import docs, jobs, kserve, ocr, paddlex, page, status

__all__ = ["BLUEPRINTS", "page"]

BLUEPRINTS = (
    ocr.blueprint,
    paddlex.blueprint,
    jobs.blueprint,
    kserve.blueprint,
    status.pipelines_blueprint,
    status.blueprint,
    status.metrics_blueprint,
    docs.blueprint,
)
