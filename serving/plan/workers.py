"""How many worker processes read most pages: measured in processes like those that will serve.

Objective and rule are those of combine.py and measure.py: more workers displace fewer only when
they take 5 % less time a page in two interleaved rounds, and while a lone page takes at most 1.2
times as long as with the best. They must fit in memory twice, since a reload has two generations.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Sequence
from contextlib import ExitStack, closing
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np

from serving.config.pipeline import PipelineConfig
from serving.devices import kind
from serving.errors import EngineError
from serving.pipeline import Image
from serving.plan.combine import LATENCY
from serving.plan.crew import MIB, Crew, Memory, Opening, free_memory
from serving.plan.measure import GAIN, ROUNDS, fastest
from serving.plan.plan import Plan, WorkerTrial

_CORES = 4
"""On a CPU, the least cores of a worker: so few are kept busy by one process with streams."""
_MOST_ON_GPU = 4
_GENERATIONS = 2

Hire = Callable[[int], Crew]
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
        hire = partial(Crew, Opening(config, plan, models, device, files))
        counts = worker_counts(plan.cores, device)
        trials = measure_workers(counts, hire, partial(free_memory, device), say)
    workers = next(trial.workers for trial in trials if trial.chosen)
    return replace(plan, workers=workers, worker_trials=trials)


def measure_workers(
    counts: Sequence[int], hire: Hire, free_memory: Callable[[], Memory], say: Say
) -> tuple[WorkerTrial, ...]:
    """What each number of workers showed, one of them chosen.

    counts: up from 1. hire: starts so many; raises EngineError. free_memory: what they may take.
    A number that fails is the last that is tried.
    """
    if len(counts) == 1:
        few = f"not measured: more processes need {2 * _CORES} cores, or 2 with a GPU"
        return (WorkerTrial(counts[0], chosen=True, reason=few),)
    free = free_memory()
    crews: list[Crew] = []
    reasons: dict[int, str] = {}
    best: Crew | None = None
    with ExitStack() as stack:
        for count in counts:
            say(f"measuring worker processes: {count}")
            try:
                if crews:
                    _check_room(count, crews[0].memory, free)
                crew = stack.enter_context(closing(hire(count)))
                _race([crew] if best is None else [best, crew])
            except EngineError as error:
                reasons[count] = str(error)
                break
            crews.append(crew)
            reasons[count] = "" if best is None else _why_not(crew, best, crews)
            if reasons[count]:
                crew.close()
                continue
            if best is not None:
                reasons[best.workers] = f"slower than {count}"
                best.close()
            best = crew
    chosen = counts[0] if best is None else best.workers
    found = {crew.workers: _trial(crew) for crew in crews}
    return tuple(
        replace(found.get(count, WorkerTrial(count)), chosen=count == chosen, reason=reason)
        for count, reason in reasons.items()
    )


def _race(crews: Sequence[Crew]) -> None:
    for _ in range(ROUNDS):
        for crew in crews:
            crew.read()


def _why_not(crew: Crew, best: Crew, crews: Sequence[Crew]) -> str:
    """Why it does not displace the best so far; empty where it does."""
    if fastest([best.crowds[-ROUNDS:], crew.crowds[-ROUNDS:]]) == 0:
        return f"not {1 - GAIN:.0%} faster than {best.workers}"
    slowness = min(crew.lones) / min(min(other.lones) for other in crews)
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


def _trial(crew: Crew) -> WorkerTrial:
    return WorkerTrial(
        crew.workers,
        pages_per_second=round(1e3 / min(crew.crowds), 3),
        latency_ms=round(min(crew.lones), 3),
        memory_mb={place: each // MIB for place, each in crew.memory.items()},
    )
