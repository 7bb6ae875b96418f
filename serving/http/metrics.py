"""What is counted and timed, for Prometheus. Every observation is a method here.

The files in which workers count, and what becomes of those of workers that died.

prometheus_client keeps a file a worker for ever, because counters must not fall. Here the counts of
dead workers are added up in one file, so that there are no more files than workers.

What is read as Prometheus asks: engines in force, the workers' memory, the GPUs.
"""

from __future__ import annotations

import fcntl
import os
import shutil
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from flask import Flask, Response, current_app, g, request

from serving.http.registry import Registry
from serving.types import Page

if TYPE_CHECKING:
    from prometheus_client.core import Metric

_VARIABLE = "PROMETHEUS_MULTIPROC_DIR"
_SHM = Path("/dev/shm")  # noqa: S108  (counting must not wait for a disk)
_NOBODY = 0
"""Instead of a process, in the names of the files that keep what the dead have counted."""


@contextmanager
def fresh_folder() -> Iterator[None]:
    """In the master: a folder for this server's workers, removed at its end."""
    master = os.getpid()
    folder = tempfile.mkdtemp(prefix="ocr-hpi-metrics-", dir=_SHM if _SHM.is_dir() else None)
    os.environ[_VARIABLE] = folder
    try:
        yield
    finally:
        if os.getpid() == master:  # a worker ends here as well
            del os.environ[_VARIABLE]
            shutil.rmtree(folder, ignore_errors=True)


def folder() -> Path | None:
    """In a worker: the folder; None where there is no master."""
    path = os.environ.get(_VARIABLE)
    return Path(path) if path else None


def workers(folder: Path) -> list[int]:
    """Processes that live and count."""
    return sorted({pid for pid in map(_pid, folder.glob("*.db")) if _lives(pid)})


@contextmanager
def merged(folder: Path) -> Iterator[None]:
    """While inside, no count is in two files, and none in the file of a dead worker."""
    with (folder / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # ends with the file, and with this process
        dead = [file for file in folder.glob("*_*.db") if not _lives(_pid(file))]
        for kind in ("counter", "histogram"):
            _add_up(folder, kind, [file for file in dead if file.name.startswith(kind)])
        for file in dead:
            if _pid(file) != _NOBODY:
                file.unlink()
        yield


def _add_up(folder: Path, kind: str, files: list[Path]) -> None:
    from prometheus_client.mmap_dict import MmapedDict, mmap_key
    from prometheus_client.multiprocess import MultiProcessCollector

    whole = folder / f"{kind}_{_NOBODY}.db"
    if not set(files) - {whole}:
        return
    new = folder / f"{kind}.new"
    new.unlink(missing_ok=True)
    counts = MmapedDict(str(new))
    for metric in MultiProcessCollector.merge([str(file) for file in files], accumulate=False):
        for sample in metric.samples:
            key = mmap_key(
                metric.name,
                sample.name,
                list(sample.labels),
                list(sample.labels.values()),
                metric.documentation,
            )
            counts.write_value(key, sample.value, 0.0)
    counts.close()
    new.replace(whole)


def _pid(file: Path) -> int:
    return int(file.stem.rpartition("_")[2])


def _lives(pid: int) -> bool:
    with suppress(OSError):
        return Path(f"/proc/{pid}/stat").read_text().rpartition(") ")[2][0] not in "ZX"
    return False


_ENGINE = ("pipeline", "module", "model", "backend", "precision", "streams", "threads")
_PAGE = os.sysconf("SC_PAGE_SIZE")


class RuntimeCollector:
    """A collector for prometheus_client's registry."""

    def __init__(self, registry: Registry, folder: Path | None) -> None:
        self._registry = registry
        self._folder = folder
        self._gpus = _open_gpus()

    def collect(self) -> Iterator[Metric]:
        """What is so now."""
        yield self._engines()
        yield self._memory()
        yield from self._gpu()

    def _engines(self) -> Metric:
        from prometheus_client.core import GaugeMetricFamily

        found = GaugeMetricFamily("ocr_engine_info", "Engines in force; always 1.", labels=_ENGINE)
        for pipeline in self._registry.to_dict():
            for module, model in pipeline.get("models", {}).items():
                engine = model["engine"]
                settings = [str(engine.get(name, "")) for name in _ENGINE[3:]]
                found.add_metric([pipeline["name"], module, model["model"], *settings], 1)
        return found

    def _memory(self) -> Metric:
        from prometheus_client.core import GaugeMetricFamily

        found = GaugeMetricFamily(
            "ocr_process_resident_bytes", "Memory of the workers, by process.", labels=["worker"]
        )
        pids = [os.getpid()] if self._folder is None else workers(self._folder)
        for pid in pids:
            with suppress(OSError):  # it may end just now
                pages = Path(f"/proc/{pid}/statm").read_text().split()[1]
                found.add_metric([str(pid)], int(pages) * _PAGE)
        return found

    def _gpu(self) -> Iterator[Metric]:
        from prometheus_client.core import GaugeMetricFamily

        if not self._gpus:
            return
        import pynvml

        used = GaugeMetricFamily("ocr_gpu_memory_used_bytes", "Of all programs.", labels=["gpu"])
        total = GaugeMetricFamily("ocr_gpu_memory_bytes", "There is.", labels=["gpu"])
        busy = GaugeMetricFamily(
            "ocr_gpu_busy_ratio", "Share of the last moments in which it worked.", labels=["gpu"]
        )
        for number, gpu in enumerate(self._gpus):
            with suppress(pynvml.NVMLError):  # one that does not tell has no figure
                memory = pynvml.nvmlDeviceGetMemoryInfo(gpu)
                used.add_metric([str(number)], memory.used)
                total.add_metric([str(number)], memory.total)
                rate = pynvml.nvmlDeviceGetUtilizationRates(gpu).gpu
                busy.add_metric([str(number)], rate / 100)
        yield from (used, total, busy)


def _open_gpus() -> list[object]:
    """NVML's handles of the GPUs; none where there is no driver or no NVML."""
    try:
        import pynvml

        pynvml.nvmlInit()
        count = pynvml.nvmlDeviceGetCount()
        return [pynvml.nvmlDeviceGetHandleByIndex(number) for number in range(count)]
    except ImportError:
        return []
    except pynvml.NVMLError:
        return []


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

        from serving.http.metrics import RuntimeCollector

        self._folder = folder()
        own = self._all = CollectorRegistry()
        if self._folder is not None:
            self._all = CollectorRegistry()
            with merged(self._folder):
                pass  # so that files do not pile up where nobody scrapes
            MultiProcessCollector(self._all, path=str(self._folder))
        self._all.register(RuntimeCollector(registry, self._folder))

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
        with merged(self._folder):
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
