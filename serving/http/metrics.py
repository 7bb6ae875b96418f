"""Prometheus metrics: counted in each worker, added up over all workers by a scrape of any one.

prometheus_client's multiprocess mode keeps the counts in memory-mapped files. It names them by
process id, and keeps those of dead processes because counters must not fall, so that restarts
leave ever more files. Here they are named by a number that no other living worker has: a new
worker goes on counting where an earlier one of its number stopped.
"""

from __future__ import annotations

import logging
import os
import shutil
import tempfile
import time
import weakref
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from flask import Flask, Response, current_app, g, request
from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    generate_latest,
    values,
)
from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.multiprocess import MultiProcessCollector
from prometheus_client.registry import Collector

from serving.disk import locked_folder
from serving.http.registry import Registry
from serving.types import Page

if TYPE_CHECKING:
    from serving.http.shadow import Agreement

_LOG = logging.getLogger("serving.http")

_FOLDER = "PROMETHEUS_MULTIPROC_DIR"
_SHM = Path("/dev/shm")  # noqa: S108  (counting must not wait for a disk)  # nosec B108
_PREFIX = "ocr-hpi-metrics-"
_STARTING = 60.0
"""Seconds in which a new folder gets its lock."""
_FILE_BYTES = {"counter": 8 * 1024, "gauge_livesum": 0, "histogram": 48 * 1024}
"""What each of a worker's files holds of one pipeline, at most: 7 and 36 KiB with a name of 64
characters, and every stage, section and status."""
_SPARE_BYTES = 64 * 1024
"""Of each file, for the rest: prometheus_client's first size."""
_PAGE_SIZE = os.sysconf("SC_PAGE_SIZE")

_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60)
_LINES = (1, 2, 4, 8, 16, 32)
_ENGINE = ("pipeline", "module", "model", "backend", "precision", "streams", "threads")


@contextmanager
def metrics_folder() -> Iterator[None]:
    """In the master: a folder for the workers' files, removed when the server ends.

    Removes those of servers that were killed, too: nobody holds their lock.
    """
    master = os.getpid()
    parent = _SHM if _SHM.is_dir() else Path(tempfile.gettempdir())
    for folder in parent.glob(f"{_PREFIX}*"):
        with suppress(OSError), locked_folder(folder, wait=False) as abandoned:  # or another user's
            if abandoned and time.time() - folder.stat().st_mtime > _STARTING:
                shutil.rmtree(folder, ignore_errors=True)
    folder = Path(tempfile.mkdtemp(prefix=_PREFIX, dir=parent))
    with locked_folder(folder):  # the workers inherit the lock, and may outlive a killed master
        os.environ[_FOLDER] = str(folder)
        try:
            yield
        finally:
            if os.getpid() == master:  # a forked worker leaves this block as well
                remove_metrics()


def remove_metrics() -> None:
    """When the server has ended, or in a worker whose master was killed."""
    shutil.rmtree(os.environ.pop(_FOLDER, ""), ignore_errors=True)


def count_as(number: int, pipelines: int) -> None:
    """In a worker, before its first metric: count in the files of this number.

    They get the room that so many pipelines may ever need. Where the disk has none, the worker
    counts for itself alone: writing to a mapped file without room ends a process with SIGBUS.
    """
    try:
        for kind, each in _FILE_BYTES.items():
            with Path(os.environ[_FOLDER], f"{kind}_{number}.db").open("ab") as file:
                size = max(_SPARE_BYTES + pipelines * each, os.fstat(file.fileno()).st_size)
                os.posix_fallocate(file.fileno(), 0, size)
    except OSError as error:
        _LOG.error("metrics of this worker are not added to the others': %s", error)
        del os.environ[_FOLDER]
        values.ValueClass = values.MutexValue
    else:
        values.ValueClass = values.MultiProcessValue(lambda: number)


class Metrics:
    """What one worker counts, with a method for each event.

    Label values are bounded: pipelines, status codes, stages, modules; nothing a caller chooses.
    """

    def __init__(self, registry: Registry) -> None:
        own = CollectorRegistry()
        self._scraped = own
        if folder := os.environ.get(_FOLDER):
            self._scraped = CollectorRegistry()
            MultiProcessCollector(self._scraped, path=folder)
        self._scraped.register(RuntimeCollector(registry))

        counter = partial(Counter, registry=own)
        gauge = partial(Gauge, multiprocess_mode="livesum", registry=own)
        histogram = partial(Histogram, buckets=_SECONDS, registry=own)
        self._requests = counter(
            "ocr_requests_total",
            "Requests answered, by status code; pipeline is empty for other routes.",
            ("pipeline", "code"),
        )
        self._seconds = histogram(
            "ocr_request_seconds", "Time from a request's header to its answer.", ("pipeline",)
        )
        self._depth = gauge("ocr_queue_depth", "Requests waiting for their first page to start.")
        self._working = gauge("ocr_requests_in_work", "Requests of which a page has started.")
        self._waits = histogram(
            "ocr_queue_wait_seconds",
            "Time from a request's admission to the start of its first page.",
            ("pipeline",),
        )
        self._stages = histogram(
            "ocr_stage_seconds", "Time to process a page, by stage.", ("pipeline", "stage")
        )
        self._batches = histogram(
            "ocr_batch_lines",
            "Text lines in an engine call.",
            ("pipeline", "module"),
            buckets=_LINES,
        )
        self._pages = counter("ocr_pages_total", "Pages processed.", ("pipeline",))
        self._lines = counter("ocr_lines_total", "Text lines recognised.", ("pipeline",))
        self._pixels = counter("ocr_pixels_total", "Pixels of pages processed.", ("pipeline",))
        self._shadow_pages = counter(
            "ocr_shadow_pages_total",
            "Pages that a shadow was to read too: read, dropped for want of room, or failed.",
            ("pipeline", "result"),
        )
        self._shadow_lines = counter(
            "ocr_shadow_lines_total",
            "Served lines of pages that a shadow read: equal is yes where its text has the same.",
            ("pipeline", "equal"),
        )
        self._shadow_edits = counter(
            "ocr_shadow_edits_total",
            "Edits between the whole texts of pages, as served and as a shadow read them.",
            ("pipeline",),
        )
        self._shadow_characters = counter(
            "ocr_shadow_characters_total", "Characters of the longer texts.", ("pipeline",)
        )
        self._memory = gauge(
            "ocr_process_resident_bytes",
            "Resident memory of a worker process, after its last request.",
            ("worker",),
        ).labels(os.getpid())
        self._loaded = gauge(
            "ocr_process_loaded_bytes",
            "Resident memory of a worker process when its pipelines had loaded; what it has grown "
            "by since, its engines keep for the shapes of input that they have met.",
            ("worker",),
        ).labels(os.getpid())
        # Kept open: a worker that may open no more files still answers, and counts.
        self._statm = os.open("/proc/self/statm", os.O_RDONLY)
        weakref.finalize(self, os.close, self._statm)
        self._memory.set(self._resident())

    def pipelines_loaded(self) -> None:
        """Note the memory that they take before any page."""
        self._loaded.set(self._resident())

    def request_answered(self, pipeline: str, status: int, seconds: float) -> None:
        """Count an answer. pipeline: its name, or nothing for other routes."""
        self._requests.labels(pipeline, status).inc()
        if pipeline:
            self._seconds.labels(pipeline).observe(seconds)
        self._memory.set(self._resident())

    def _resident(self) -> int:
        return int(os.pread(self._statm, 100, 0).split()[1]) * _PAGE_SIZE

    def request_queued(self, pipeline: str) -> QueuedRequest:
        """Count a request as waiting for its first page."""
        return QueuedRequest(self, pipeline)

    def page_read(self, pipeline: str, page: Page) -> None:
        """Count a page, its lines and the time of its stages."""
        self._pages.labels(pipeline).inc()
        self._lines.labels(pipeline).inc(len(page.lines))
        self._pixels.labels(pipeline).inc(page.width * page.height)
        for stage, milliseconds in page.timing.items():
            self._stages.labels(pipeline, stage).observe(milliseconds / 1e3)

    def engine_called(self, pipeline: str, module: str, lines: int) -> None:
        """Count an engine call. module: the section of the pipeline's YAML."""
        self._batches.labels(pipeline, module).observe(lines)

    def shadow_read(self, pipeline: str, agreement: Agreement) -> None:
        """Count a page that the shadow of `pipeline` has read."""
        self._shadow_pages.labels(pipeline, "read").inc()
        self._shadow_lines.labels(pipeline, "yes").inc(agreement.equal)
        self._shadow_lines.labels(pipeline, "no").inc(agreement.lines - agreement.equal)
        self._shadow_edits.labels(pipeline).inc(agreement.edits)
        self._shadow_characters.labels(pipeline).inc(agreement.characters)

    def shadow_missed(self, pipeline: str, result: Literal["dropped", "failed"]) -> None:
        """Count a page that it was to read, and did not."""
        self._shadow_pages.labels(pipeline, result).inc()

    def add(self, collector: Collector) -> None:
        """Add metrics that are read at each scrape, the same in every worker."""
        self._scraped.register(collector)

    def scrape(self) -> bytes:
        """The metrics of all workers in Prometheus' text format."""
        return generate_latest(self._scraped)


class QueuedRequest:
    """One request, from admission to its end."""

    def __init__(self, metrics: Metrics, pipeline: str) -> None:
        self._metrics = metrics
        self._pipeline = pipeline
        self._admitted = time.perf_counter()
        self._started = False
        metrics._depth.inc()

    def begin(self) -> None:
        """A page starts; only the first one counts."""
        if self._started:
            return
        self._started = True
        self._metrics._depth.dec()
        self._metrics._working.inc()
        waited = time.perf_counter() - self._admitted
        self._metrics._waits.labels(self._pipeline).observe(waited)

    def end(self) -> None:
        """It neither waits nor is in progress any more."""
        (self._metrics._working if self._started else self._metrics._depth).dec()


class RuntimeCollector:
    """Metrics read at each scrape, the same in every worker: engines in use, and GPUs by NVML."""

    def __init__(self, registry: Registry) -> None:
        self._registry = registry
        self._gpus = _open_gpus()

    def collect(self) -> Iterator[Metric]:
        """Called by prometheus_client."""
        engines = GaugeMetricFamily("ocr_engine_info", "Engines in use; always 1.", labels=_ENGINE)
        for pipeline in self._registry.to_list():
            for module, model in pipeline.get("models", {}).items():
                engine = model["engine"]
                settings = [str(engine.get(name, "")) for name in _ENGINE[3:]]
                engines.add_metric([pipeline["name"], module, model["model"], *settings], 1)
        yield engines
        if self._gpus:
            yield from self._gpu_metrics()

    def _gpu_metrics(self) -> Iterator[Metric]:
        import pynvml

        gauge = partial(GaugeMetricFamily, labels=("gpu",))
        used = gauge("ocr_gpu_memory_used_bytes", "GPU memory in use by all programs.")
        total = gauge("ocr_gpu_memory_bytes", "GPU memory installed.")
        busy = gauge("ocr_gpu_busy_ratio", "Share of the last sample period a kernel was running.")
        for index, gpu in enumerate(self._gpus):
            with suppress(pynvml.NVMLError):  # some GPUs do not report everything
                memory = pynvml.nvmlDeviceGetMemoryInfo(gpu)
                used.add_metric([str(index)], memory.used)
                total.add_metric([str(index)], memory.total)
                rate = pynvml.nvmlDeviceGetUtilizationRates(gpu).gpu
                busy.add_metric([str(index)], rate / 100)
        yield from (used, total, busy)


def count_requests(app: Flask) -> None:
    """Count every request of `app`."""

    @app.after_request
    def count(response: Response) -> Response:
        service = current_app.extensions["ocr"]
        seconds = time.perf_counter() - g.start
        pipeline = _requested_pipeline(service.registry)
        service.metrics.request_answered(pipeline, response.status_code, seconds)
        return response


def _requested_pipeline(registry: Registry) -> str:
    """The name of the requested pipeline; nothing where there is none, or it is not served."""
    if request.endpoint == "paddlex.infer":
        return registry.names[0]
    name = (request.view_args or {}).get("name", "")
    return name if name in registry.names else ""


def _open_gpus() -> list[object]:
    """NVML's handles of the GPUs; none where NVML or a driver is missing."""
    with suppress(ImportError):
        import pynvml

        with suppress(pynvml.NVMLError):
            pynvml.nvmlInit()
            count = pynvml.nvmlDeviceGetCount()
            return [pynvml.nvmlDeviceGetHandleByIndex(index) for index in range(count)]
    return []
