"""What is counted and timed, for Prometheus. Every observation is a method here."""

from __future__ import annotations

import time
from functools import partial

from flask import Flask, Response, current_app, g, request

from serving.http import metrics_files
from serving.http.registry import Registry
from serving.types import Page

_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60)
_LINES = (1, 2, 4, 8, 16, 32)


class Metrics:
    """What one worker counts; a scrape of any worker adds up what all of them counted.

    Labels are bounded: pipelines by name, statuses, stages. No path of a caller's making.
    """

    def __init__(self, registry: Registry) -> None:
        # In the worker, not before: prometheus_client looks for the folder as it is imported.
        from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram
        from prometheus_client.multiprocess import MultiProcessCollector

        from serving.http.live import Live

        self._folder = metrics_files.folder()
        own = self._all = CollectorRegistry()
        if self._folder is not None:
            self._all = CollectorRegistry()
            with metrics_files.merged(self._folder):
                pass  # so that files do not pile up where nobody scrapes
            MultiProcessCollector(self._all, path=str(self._folder))
        self._all.register(Live(registry, self._folder))

        counter = partial(Counter, registry=own)
        histogram = partial(Histogram, buckets=_SECONDS, registry=own)
        gauge = partial(Gauge, multiprocess_mode="livesum", registry=own)
        self._requests = counter(
            "ocr_requests_total", "Requests answered; no pipeline: other pages.", _REQUEST
        )
        self._seconds = histogram(
            "ocr_request_seconds", "From a request's header to its answer.", _PIPELINE
        )
        self._stages = histogram("ocr_stage_seconds", "Of a page, by stage.", _STAGE)
        self._waits = histogram(
            "ocr_queue_wait_seconds", "From a place in line to the first page's turn.", _PIPELINE
        )
        self._batches = histogram(
            "ocr_batch_lines", "Lines in a call of an engine.", _MODULE, buckets=_LINES
        )
        self._depth = gauge("ocr_queue_depth", "Requests whose first page waits for its turn.")
        self._working = gauge("ocr_requests_in_work", "Requests of which a page was begun.")
        self._pages = counter("ocr_pages_total", "Pages read.", _PIPELINE)
        self._lines = counter("ocr_lines_total", "Lines of text read.", _PIPELINE)
        self._pixels = counter("ocr_pixels_total", "Pixels of the pages read.", _PIPELINE)

    def answered(self, pipeline: str, status: int, seconds: float) -> None:
        """A request has its answer. pipeline: its name, or nothing for other pages."""
        self._requests.labels(pipeline, status).inc()
        if pipeline:
            self._seconds.labels(pipeline).observe(seconds)

    def read(self, pipeline: str, page: Page) -> None:
        """A page was read."""
        self._pages.labels(pipeline).inc()
        self._lines.labels(pipeline).inc(len(page.lines))
        self._pixels.labels(pipeline).inc(page.width * page.height)
        for stage, milliseconds in page.timing.items():
            self._stages.labels(pipeline, stage).observe(milliseconds / 1e3)

    def called(self, pipeline: str, module: str, lines: int) -> None:
        """An engine was called; module: its section of the pipeline's YAML."""
        self._batches.labels(pipeline, module).observe(lines)

    def in_line(self, pipeline: str) -> Waiting:
        """A request has a place in line."""
        return Waiting(self, pipeline)

    def scrape(self) -> bytes:
        """All of it, in Prometheus' text format."""
        from prometheus_client import generate_latest

        if self._folder is None:
            return generate_latest(self._all)
        with metrics_files.merged(self._folder):
            return generate_latest(self._all)


class Waiting:
    """One request, from its place in line to its end."""

    def __init__(self, metrics: Metrics, pipeline: str) -> None:
        self._metrics = metrics
        self._pipeline = pipeline
        self._since = time.perf_counter()
        self._begun = False
        metrics._depth.inc()

    def begin(self) -> None:
        """Its first page is begun."""
        self._begun = True
        self._metrics._depth.dec()
        self._metrics._working.inc()
        waited = time.perf_counter() - self._since
        self._metrics._waits.labels(self._pipeline).observe(waited)

    def end(self) -> None:
        """Nothing of it waits or is in work."""
        (self._metrics._working if self._begun else self._metrics._depth).dec()


_PIPELINE = ("pipeline",)
_REQUEST = ("pipeline", "code")
_STAGE = ("pipeline", "stage")
_MODULE = ("pipeline", "module")


def register(app: Flask) -> None:
    """Count every request of `app`."""
    app.after_request(_count)


def _count(response: Response) -> Response:
    service = current_app.extensions["ocr"]
    seconds = time.perf_counter() - g.start
    service.metrics.answered(_pipeline(service.registry), response.status_code, seconds)
    return response


def _pipeline(registry: Registry) -> str:
    """The pipeline that was asked for; nothing where none was, or one that is not served."""
    if request.endpoint == "paddlex.infer":
        return registry.names[0]
    name = (request.view_args or {}).get("name", "")
    return name if name in registry.names else ""
