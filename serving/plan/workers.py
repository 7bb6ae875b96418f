"""One of several worker processes that are measured together. Run by group.py as a module.

Speaks JSON lines. The first question says what to open: {"config", "source", "plan", "models",
"device", "workers", "pages": [FILE.npy, ...]}; then {"seconds": S} is answered by
{"pages_per_second"} of as many callers as the process has cores, and {} by {"latency_ms"} of a lone
page. Every answer has {"memory"}: bytes at most so far.

Worker processes as the server will have them, each a child that is told to read.

How many worker processes read most pages: measured in processes like those that will serve.

Objective and rule are those of combine.py and measure.py: more workers displace fewer only when
they take 5 % less time a page in two interleaved rounds, and while a lone page takes at most 1.2
times as long as with the best. They must fit in memory twice, since a reload has two generations.
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
from serving.config.pipeline import PipelineConfig
from serving.devices import kind
from serving.errors import EngineError
from serving.machine import peak_memory, share
from serving.models.pipeline_models import pipeline_models
from serving.ocr.pipeline import Pipeline
from serving.plan.child import Child, Parent
from serving.plan.end_to_end import LATENCY
from serving.plan.load import open_planned
from serving.plan.plan import Plan, WorkerTrial
from serving.plan.timing import GAIN, ROUNDS, fastest
from serving.types import Image

_SECONDS = 3.0
"""For which all of them read, in each round."""
PATIENCE = 300.0
"""Seconds until a child that does not answer is killed; TensorRT's engines load for a minute."""

MIB = 2**20
MAIN, GPU = "memory", "GPU memory"
Memory = Mapping[str, int]
"""Bytes by where they are: MAIN and, with a GPU, GPU."""


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
        """For a child that is one of so many."""
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
    """So many workers, warm. Raises EngineError when one ends or does not answer in time."""

    def __init__(self, opening: WorkerSpec, workers: int, patience: float = PATIENCE) -> None:
        self.workers = workers
        self.crowds: list[float] = []
        """Milliseconds a page, all together, by round."""
        self.lones: list[float] = []
        """Milliseconds of a page that is read alone, by round."""
        before = free_memory(opening.device)
        with ExitStack() as stack:
            self._children = [
                stack.enter_context(closing(_child(number, workers, patience)))
                for number in range(1, workers + 1)
            ]
            self._ask(**opening.to_dict(workers))
            after = free_memory(opening.device)
            self._stack = stack.pop_all()
        self._on_gpu = (before[GPU] - after[GPU]) // workers if GPU in before else None

    def read(self) -> None:
        """One round: a page alone, then all together, each with as many callers as cores."""
        self.lones.append(float(self._children[0].ask()["latency_ms"]))
        answers = self._ask(seconds=_SECONDS)
        self.crowds.append(1e3 / sum(answer["pages_per_second"] for answer in answers))

    @property
    def memory(self) -> Memory:
        """What one worker took, at most so far."""
        return self._memory if self._on_gpu is None else {**self._memory, GPU: self._on_gpu}

    def close(self) -> None:
        """End them."""
        self._stack.close()

    def _ask(self, **question: Any) -> list[dict[str, Any]]:
        """The answers of all, who begin together."""
        for child in self._children:
            child.tell(**question)
        answers = [child.hear() for child in self._children]
        self._memory = {MAIN: max(int(answer["memory"]) for answer in answers)}
        return answers


def free_memory(device: str) -> Memory:
    """What workers on that device may take. Raises DeviceError."""
    free = {MAIN: machine.free_memory()}
    return {**free, GPU: devices.free_memory(device)} if devices.kind(device) == "gpu" else free


def _child(number: int, workers: int, patience: float) -> Child:
    command = [sys.executable, "-P", "-m", "serving.plan.workers"]
    return Child(f"worker {number} of {workers}", command, patience=patience)


_CORES = 4
"""On a CPU, the least cores of a worker: so few are kept busy by one process with streams."""
_MOST_ON_GPU = 4
_GENERATIONS = 2

Launch = Callable[[int], WorkerGroup]
Say = Callable[[str], None]


def worker_counts(cores: int, device: str) -> list[int]:
    """Numbers of worker processes to measure: 1, 2, 4, ...

    On a CPU engines share the cores among streams within one process, so that a process has at
    least 4. On a GPU, which one interpreter may not keep busy, there are at most 4, of a core each.
    """
    most = min(_MOST_ON_GPU, cores) if kind(device) == "gpu" else cores // _CORES
    return [2**step for step in range(max(1, most).bit_length())]


def with_workers(
    plan: Plan, config: PipelineConfig, models: Path, device: str, pages: Sequence[Image], say: Say
) -> Plan:
    """The plan with the number of worker processes that read most of these pages, (H, W, 3) uint8.

    device: cpu or gpu:N. Raises DeviceError.
    """
    with tempfile.TemporaryDirectory() as folder:
        files = [Path(folder) / f"{number}.npy" for number in range(len(pages))]
        for file, page in zip(files, pages, strict=True):
            np.save(file, page)
        launch = partial(WorkerGroup, WorkerSpec(config, plan, models, device, files))
        counts = worker_counts(plan.cores, device)
        trials = measure_workers(counts, launch, partial(free_memory, device), say)
    workers = next(trial.workers for trial in trials if trial.chosen)
    return replace(plan, workers=workers, worker_trials=trials)


def measure_workers(
    counts: Sequence[int], launch: Launch, free_memory: Callable[[], Memory], say: Say
) -> tuple[WorkerTrial, ...]:
    """What each number of workers showed, one of them chosen.

    counts: up from 1. launch: starts so many; raises EngineError. free_memory: what they may take.
    A number that fails is the last that is tried.
    """
    if len(counts) == 1:
        few = f"not measured: more processes need {2 * _CORES} cores, or 2 with a GPU"
        return (WorkerTrial(counts[0], chosen=True, reason=few),)
    free = free_memory()
    groups: list[WorkerGroup] = []
    reasons: dict[int, str] = {}
    best: WorkerGroup | None = None
    with ExitStack() as stack:
        for count in counts:
            say(f"measuring worker processes: {count}")
            try:
                if groups:
                    _check_room(count, groups[0].memory, free)
                group = stack.enter_context(closing(launch(count)))
                _race([group] if best is None else [best, group])
            except EngineError as error:
                reasons[count] = str(error)
                break
            groups.append(group)
            reasons[count] = "" if best is None else _why_not(group, best, groups)
            if reasons[count]:
                group.close()
                continue
            if best is not None:
                reasons[best.workers] = f"slower than {count}"
                best.close()
            best = group
    chosen = counts[0] if best is None else best.workers
    found = {group.workers: _trial(group) for group in groups}
    return tuple(
        replace(found.get(count, WorkerTrial(count)), chosen=count == chosen, reason=reason)
        for count, reason in reasons.items()
    )


def _race(groups: Sequence[WorkerGroup]) -> None:
    for _ in range(ROUNDS):
        for group in groups:
            group.read()


def _why_not(group: WorkerGroup, best: WorkerGroup, groups: Sequence[WorkerGroup]) -> str:
    """Why it does not displace the best so far; empty where it does."""
    if fastest([best.crowds[-ROUNDS:], group.crowds[-ROUNDS:]]) == 0:
        return f"not {1 - GAIN:.0%} faster than {best.workers}"
    slowness = min(group.lones) / min(min(other.lones) for other in groups)
    return f"a lone page takes {slowness:.2f} times as long" if slowness > LATENCY else ""


def _check_room(count: int, each: Memory, free: Memory) -> None:
    """Raise EngineError where so many, and those of a reload beside them, do not fit."""
    for place, one in each.items():
        need = _GENERATIONS * count * one
        if need > free[place]:
            raise EngineError(
                f"a reload takes {need // MIB} MiB of {place} for {_GENERATIONS} times {count} "
                f"of them, and {free[place] // MIB} MiB are free"
            )


def _trial(group: WorkerGroup) -> WorkerTrial:
    return WorkerTrial(
        group.workers,
        pages_per_second=round(1e3 / min(group.crowds), 3),
        latency_ms=round(min(group.lones), 3),
        memory_mb={place: each // MIB for place, each in group.memory.items()},
    )


def main() -> None:
    """Answers until the parent ends."""
    parent = Parent()
    questions = parent.questions()
    told = next(questions)
    plan = Plan.from_dict(told["plan"])
    pages = [np.load(path) for path in told["pages"]]
    pipeline = _open(told, plan)
    for page in pages:
        pipeline.read(page)
    callers = share(plan.cores, told["workers"])
    parent.answer(memory=peak_memory())
    for asked in questions:
        if "seconds" in asked:
            found = {"pages_per_second": _crowd(pipeline, pages, callers, asked["seconds"])}
        else:
            found = {"latency_ms": _lone(pipeline, pages)}
        parent.answer(**found, memory=peak_memory())


def _open(told: dict[str, Any], plan: Plan) -> Pipeline:
    config = PipelineConfig.model_validate({**told["config"], "source": told["source"]})
    models = Path(told["models"])
    found = {part.section: part for part in pipeline_models(config, models)}
    return open_planned(config, found, plan, models, told["device"], told["workers"])


def _crowd(pipeline: Pipeline, pages: Sequence[Image], callers: int, seconds: float) -> float:
    """Pages a second of so many callers, each of which goes on for so long."""
    numbers = itertools.count()

    def call(_: int) -> float:
        start, done = time.perf_counter(), 0
        while (spent := time.perf_counter() - start) < seconds:
            pipeline.read(pages[next(numbers) % len(pages)])
            done += 1
        return done / spent

    with ThreadPoolExecutor(callers) as pool:
        return sum(pool.map(call, range(callers)))


def _lone(pipeline: Pipeline, pages: Sequence[Image]) -> float:
    start = time.perf_counter()
    for page in pages:
        pipeline.read(page)
    return (time.perf_counter() - start) * 1e3 / len(pages)


if __name__ == "__main__":
    main()
