"""What is read as Prometheus asks: engines in force, the workers' memory, the GPUs."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

from prometheus_client.core import GaugeMetricFamily, Metric

from serving.http import metrics_files
from serving.http.registry import Registry

_ENGINE = ("pipeline", "module", "model", "backend", "precision", "streams", "threads")
_PAGE = os.sysconf("SC_PAGE_SIZE")


class Live:
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
        found = GaugeMetricFamily("ocr_engine_info", "Engines in force; always 1.", labels=_ENGINE)
        for pipeline in self._registry.describe():
            for module, model in pipeline.get("models", {}).items():
                engine = model["engine"]
                settings = [str(engine.get(name, "")) for name in _ENGINE[3:]]
                found.add_metric([pipeline["name"], module, model["model"], *settings], 1)
        return found

    def _memory(self) -> Metric:
        found = GaugeMetricFamily(
            "ocr_process_resident_bytes", "Memory of the workers, by process.", labels=["worker"]
        )
        pids = [os.getpid()] if self._folder is None else metrics_files.workers(self._folder)
        for pid in pids:
            with suppress(OSError):  # it may end just now
                pages = Path(f"/proc/{pid}/statm").read_text().split()[1]
                found.add_metric([str(pid)], int(pages) * _PAGE)
        return found

    def _gpu(self) -> Iterator[Metric]:
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
