"""How many worker processes give the highest throughput, measured in processes like the server's.

More workers displace fewer only when they take 5 % less time a page, measured in turn with them,
and while the latency of a single request is at most 1.2 times the best. They must fit in memory
twice, because a reload has two generations.

Each process runs `python -m serving.plan.workers`. Its first request says what to open
(`WorkerSpec.to_dict`); then {"seconds": S} is answered with {"pages_per_second"}, with as many
callers as the process has cores, and {} with {"latency_ms"} of a single request. Every response has
{"memory"}: the peak in bytes.
"""

from __future__ import annotations

import itertools
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from serving import devices, machine
from serving.child import ChildProcess, ParentConnection
from serving.config.pipeline import PipelineConfig
from serving.devices import kind
from serving.errors import EngineError
from serving.machine import peak_memory, share
from serving.models.pipeline_models import pipeline_models
from serving.ocr.pipeline import Pipeline
from serving.plan.end_to_end import MAX_LATENCY_RATIO
from serving.plan.graphs import Graphs
from serving.plan.load import open_planned
from serving.plan.plan import Plan, WorkerTrial
from serving.plan.timing import GAIN, Race, race
from serving.types import Image

_SECONDS = 2.0
"""Of the throughput measurement in each round."""
_MAX_SECONDS = 60.0
"""Of all races between numbers of workers together, so that many cores do not take many minutes."""
_TIMEOUT = 300.0
"""Seconds for a response; TensorRT's engines load for a minute."""
_MIN_CORES = 4
"""Of a worker on a CPU: streams within one process keep so few busy."""
_MAX_WORKERS_ON_GPU = 4
_GENERATIONS = 2

MIB = 2**20
MAIN, GPU = "memory", "GPU memory"
Memory = Mapping[str, int]
"""Bytes of MAIN and, with a GPU, GPU."""


def worker_counts(cores: int, device: str) -> list[int]:
    """Numbers of worker processes to measure: 1, 2, 4, ...

    On a CPU engines share the cores among streams within one process, so a process has at least 4.
    On a GPU, which one interpreter may not keep busy, there are at most 4, with a core each.
    """
    limit = min(_MAX_WORKERS_ON_GPU, cores) if kind(device) == "gpu" else cores // _MIN_CORES
    return [2**step for step in range(max(1, limit).bit_length())]


def free_memory(device: str) -> Memory:
    """What workers on that device may take. Raises DeviceError."""
    free = {MAIN: machine.free_memory()}
    return {**free, GPU: devices.free_memory(device)} if kind(device) == "gpu" else free


@dataclass(frozen=True, slots=True)
class WorkerSpec:
    """What every worker opens and reads."""

    config: PipelineConfig
    plan: Plan
    models: Path
    device: str
    pages: Sequence[Path]
    """Pages as .npy files."""

    def to_dict(self, workers: int) -> dict[str, Any]:
        """The first request to each of so many workers."""
        return {
            "config": self.config.model_dump(mode="json", by_alias=True),
            "source": self.config.source,
            "plan": asdict(self.plan),
            "models": str(self.models),
            "device": self.device,
            "workers": workers,
            "pages": [str(page) for page in self.pages],
        }


class WorkerGroup:
    """Worker processes, warm. Raises EngineError when one ends or does not answer in time."""

    def __init__(self, spec: WorkerSpec, workers: int, timeout: float = _TIMEOUT) -> None:
        self.workers = workers
        self.page_times: list[float] = []
        """Milliseconds a page at full throughput, by round."""
        self.latencies: list[float] = []
        """Milliseconds of a single request, by round."""
        command = [sys.executable, "-P", "-m", "serving.plan.workers"]
        before = free_memory(spec.device)
        with ExitStack() as stack:
            self._children = [
                stack.enter_context(
                    closing(ChildProcess(f"worker {number} of {workers}", command, timeout=timeout))
                )
                for number in range(1, workers + 1)
            ]
            self._request(**spec.to_dict(workers))
            after = free_memory(spec.device)
            self._stack = stack.pop_all()
        self._on_gpu = (before[GPU] - after[GPU]) // workers if GPU in before else None

    def measure(self) -> float:
        """Milliseconds a page of all workers together; before, those of a single request."""
        self.latencies.append(float(self._children[0].request()["latency_ms"]))
        responses = self._request(seconds=_SECONDS)
        self.page_times.append(1e3 / sum(each["pages_per_second"] for each in responses))
        return self.page_times[-1]

    @property
    def memory(self) -> Memory:
        """Peak of one worker."""
        return self._memory if self._on_gpu is None else {**self._memory, GPU: self._on_gpu}

    def close(self) -> None:
        """End the processes."""
        self._stack.close()

    def _request(self, **content: Any) -> list[dict[str, Any]]:
        """The responses of all, which work at the same time."""
        for child in self._children:
            child.send(**content)
        responses = [child.receive() for child in self._children]
        self._memory = {MAIN: max(int(response["memory"]) for response in responses)}
        return responses


def with_workers(
    plan: Plan,
    config: PipelineConfig,
    models: Path,
    device: str,
    pages: Sequence[Image],
    message: Callable[[str], None],
) -> Plan:
    """The plan with the number of worker processes that has the highest throughput on these pages.

    device: cpu or gpu:N. message: shows progress. Raises DeviceError.
    """
    with tempfile.TemporaryDirectory() as folder:
        files = [Path(folder) / f"{index}.npy" for index in range(len(pages))]
        for file, page in zip(files, pages, strict=True):
            np.save(file, page)
        launch = partial(WorkerGroup, WorkerSpec(config, plan, models, device, files))
        counts = worker_counts(plan.cores, device)
        trials = measure_workers(counts, launch, partial(free_memory, device), message)
    workers = next(trial.workers for trial in trials if trial.chosen)
    return replace(plan, workers=workers, worker_trials=trials)


def measure_workers(
    counts: Sequence[int],
    launch: Callable[[int], WorkerGroup],
    free_memory: Callable[[], Memory],
    message: Callable[[str], None],
) -> tuple[WorkerTrial, ...]:
    """A trial for each number of workers, up to the first that fails; one of them is chosen.

    counts: ascending from 1. launch: starts that many; raises EngineError. So does this where even
    the first number fails.
    """
    if len(counts) == 1:
        few = f"not measured: more processes need {2 * _MIN_CORES} cores, or 2 with a GPU"
        return (WorkerTrial(counts[0], chosen=True, reason=few),)
    max_seconds = _MAX_SECONDS / (len(counts) - 1)
    free = free_memory()
    groups: list[WorkerGroup] = []
    reasons: dict[int, str] = {}
    best: WorkerGroup | None = None
    noise = 0.0
    with ExitStack() as stack:
        for count in counts:
            message(f"measuring worker processes: {count}")
            try:
                if groups:
                    _check_memory(count, groups[0].memory, free)
                group = stack.enter_context(closing(launch(count)))
                rivals = [group] if best is None else [best, group]
                found = race([each.measure for each in rivals], max_seconds)
            except EngineError as error:
                if not groups:
                    raise
                reasons[count] = str(error)
                break
            groups.append(group)
            noise = max(noise, found.noise)
            reasons[count] = "" if best is None else _reason_against(found, best, groups)
            if reasons[count]:
                group.close()
                continue
            if best is not None:
                reasons[best.workers] = f"slower than {count}"
                best.close()
            best = group
    chosen = counts[0] if best is None else best.workers
    measured = {group.workers: _trial(group, noise) for group in groups}
    return tuple(
        replace(measured.get(count, WorkerTrial(count)), chosen=count == chosen, reason=reason)
        for count, reason in reasons.items()
    )


def _reason_against(found: Race, best: WorkerGroup, groups: Sequence[WorkerGroup]) -> str:
    """Why the newest does not displace the best so far; empty where it does."""
    if found.winner == 0:
        return f"not {1 - GAIN:.0%} faster than {best.workers}"
    ratio = min(groups[-1].latencies) / min(min(other.latencies) for other in groups)
    return f"a single request takes {ratio:.2f} times as long" if ratio > MAX_LATENCY_RATIO else ""


def _check_memory(count: int, each: Memory, free: Memory) -> None:
    """Raise EngineError where this many do not fit twice, as a reload needs."""
    for name, size in each.items():
        need = _GENERATIONS * count * size
        if need > free[name]:
            raise EngineError(
                f"a reload takes {need // MIB} MiB of {name} for {_GENERATIONS} times {count} "
                f"of them, and {free[name] // MIB} MiB are free"
            )


def _trial(group: WorkerGroup, noise: float) -> WorkerTrial:
    return WorkerTrial(
        group.workers,
        pages_per_second=round(1e3 / min(group.page_times), 3),
        latency_ms=round(min(group.latencies), 3),
        memory_mb={name: size // MIB for name, size in group.memory.items()},
        noise=noise,
    )


def main() -> None:
    """One worker: answers until the parent ends."""
    parent = ParentConnection()
    requests = parent.requests()
    spec = next(requests)
    plan = Plan.from_dict(spec["plan"])
    pages = [np.load(path) for path in spec["pages"]]
    pipeline = _open(spec, plan)
    for page in pages:
        pipeline.read(page)
    callers = share(plan.cores, spec["workers"])
    parent.respond(memory=peak_memory())
    for request in requests:
        if "seconds" in request:
            figure = {"pages_per_second": _throughput(pipeline, pages, callers, **request)}
        else:
            figure = {"latency_ms": _latency(pipeline, pages)}
        parent.respond(**figure, memory=peak_memory())


def _open(spec: dict[str, Any], plan: Plan) -> Pipeline:
    config = PipelineConfig.checked(spec["config"], spec["source"])
    models = Path(spec["models"])
    parts = {part.section: part for part in pipeline_models(config, models)}
    return open_planned(config, parts, plan, Graphs(models), spec["device"], spec["workers"])


def _throughput(pipeline: Pipeline, pages: Sequence[Image], callers: int, seconds: float) -> float:
    """Pages a second of so many callers."""
    counter = itertools.count()

    def call(_: int) -> float:
        start, done = time.perf_counter(), 0
        while (spent := time.perf_counter() - start) < seconds:
            pipeline.read(pages[next(counter) % len(pages)])
            done += 1
        return done / spent

    with ThreadPoolExecutor(callers) as pool:
        return sum(pool.map(call, range(callers)))


def _latency(pipeline: Pipeline, pages: Sequence[Image]) -> float:
    """Mean milliseconds of a page, one after another."""
    start = time.perf_counter()
    for page in pages:
        pipeline.read(page)
    return (time.perf_counter() - start) * 1e3 / len(pages)


if __name__ == "__main__":
    main()
