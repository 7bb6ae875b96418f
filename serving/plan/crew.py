"""Worker processes as the server will have them, each a child that is told to read."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from contextlib import ExitStack, closing
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from serving import devices, machine
from serving.child import Child
from serving.config.pipeline import PipelineConfig
from serving.plan.plan import Plan

_SECONDS = 3.0
"""For which all of them read, in each round."""
PATIENCE = 300.0
"""Seconds until a child that does not answer is killed; TensorRT's engines load for a minute."""

MIB = 2**20
MAIN, GPU = "memory", "GPU memory"
Memory = Mapping[str, int]
"""Bytes by where they are: MAIN and, with a GPU, GPU."""


@dataclass(frozen=True, slots=True)
class Opening:
    """What every worker opens and reads."""

    config: PipelineConfig
    plan: Plan
    models: Path
    device: str
    pages: Sequence[Path]
    """Pages as .npy files."""

    def words(self, workers: int) -> dict[str, Any]:
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


class Crew:
    """So many workers, warm. Raises EngineError when one ends or does not answer in time."""

    def __init__(self, opening: Opening, workers: int, patience: float = PATIENCE) -> None:
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
            self._ask(**opening.words(workers))
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
    command = [sys.executable, "-P", "-m", "serving.plan.worker_child"]
    return Child(f"worker {number} of {workers}", command, patience=patience)
