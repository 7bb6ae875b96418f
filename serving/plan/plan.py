"""A pipeline's engine plan: a file that a person can read and the server obeys."""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from serving.engines.base import EngineSpec
from serving.errors import PlanError
from serving.plan.keys import int8_name
from serving.store.disk import write_whole

_LOG = logging.getLogger(__name__)

BUILD = "bash scripts/build_engines.sh"


@dataclass(frozen=True, slots=True)
class Trial:
    """One candidate of one model: how fast, how true, and what became of it."""

    spec: EngineSpec
    verdict: str
    """chosen, accepted, slower (not judged), rejected (by the gate) or failed (does not run)."""
    ms: float | None = None
    """Median time of the model's workload."""
    figures: dict[str, float] = field(default_factory=dict)
    reason: str = ""

    @classmethod
    def from_plain(cls, item: Mapping[str, Any]) -> Trial:
        """The trial that `dataclasses.asdict` made plain."""
        return cls(**{**item, "spec": EngineSpec(**item["spec"])})


@dataclass(frozen=True, slots=True)
class Company:
    """Short lines in calls of several, beside the same lines one by one, on one engine."""

    times: float | None = None
    """Time together over time one by one, in the worse of two rounds."""
    same: bool = False
    """Whether the engine says of each line, bit for bit, what it says of it alone."""
    reason: str = ""
    """Why it takes no more than one line."""


@dataclass(frozen=True, slots=True)
class ModelPlan:
    """One model's trials and the engine it runs on."""

    model: str
    files: str
    trials: tuple[Trial, ...]
    choice: EngineSpec
    company: Company | None = None
    """Of a recogniser on a CPU, where more than one line a call is open or asked for."""
    hot_shapes: tuple[tuple[int, int], ...] = ()
    """(height, width) of inputs to run once before serving."""

    @property
    def trial(self) -> Trial | None:
        """The one of the engine that it runs on."""
        return next((trial for trial in self.trials if is_trial_of(trial, self.choice)), None)


def is_trial_of(trial: Trial, choice: EngineSpec) -> bool:
    """On a CPU, whether lines are read together is settled after the trials."""
    return trial.spec == choice or (choice.kind == "cpu" and trial.spec == replace(choice, batch=1))


@dataclass(frozen=True, slots=True)
class Combination:
    """A set of engines, measured end to end."""

    engines: dict[str, str]
    pages_per_second: float
    latency_ms: float
    chosen: bool = False


@dataclass(frozen=True, slots=True)
class WorkerTrial:
    """So many worker processes that share the cores, measured together."""

    workers: int
    pages_per_second: float | None = None
    """Of all together."""
    latency_ms: float | None = None
    """Of a lone page."""
    memory_mb: dict[str, int] = field(default_factory=dict)
    """MiB of one process at most: `memory` and, with a GPU, `GPU memory`."""
    chosen: bool = False
    reason: str = ""
    """Why it was not chosen, or not measured."""


@dataclass(frozen=True, slots=True)
class Plan:
    """What a pipeline runs on, and how that was found."""

    key: str
    pipeline: str
    made: str
    cores: int
    machine: dict[str, Any]
    versions: dict[str, str]
    gate: dict[str, Any]
    calibration: dict[str, Any]
    objective: str
    models: dict[str, ModelPlan]
    combinations: tuple[Combination, ...] = ()
    cold_shape_ms: dict[str, float] = field(default_factory=dict)
    """What the first input of a shape that was not warmed costs on top, by model."""
    workers: int = 1
    """Worker processes that read most; on several GPUs, for each of them."""
    worker_trials: tuple[WorkerTrial, ...] = ()

    @classmethod
    def from_plain(cls, data: Mapping[str, Any]) -> Plan:
        """The plan that `dataclasses.asdict` made plain, as its file holds it."""
        models = {
            section: ModelPlan(
                **{
                    **item,
                    "trials": tuple(Trial.from_plain(trial) for trial in item["trials"]),
                    "choice": EngineSpec(**item["choice"]),
                    "company": Company(**item["company"]) if item["company"] else None,
                    "hot_shapes": tuple((height, width) for height, width in item["hot_shapes"]),
                }
            )
            for section, item in data["models"].items()
        }
        combinations = tuple(Combination(**item) for item in data["combinations"])
        workers = tuple(WorkerTrial(**item) for item in data.get("worker_trials", ()))
        return cls(
            **{**data, "models": models, "combinations": combinations, "worker_trials": workers}
        )

    def summary(self) -> dict[str, Any]:
        """What was measured of the engines that were chosen, for people who ask the server."""
        end_to_end = next((item for item in self.combinations if item.chosen), None)
        found: dict[str, Any] = {"key": self.key, "made": self.made, "cores": self.cores}
        if end_to_end is not None:
            found["pages_per_second"] = end_to_end.pages_per_second
            found["latency_ms"] = end_to_end.latency_ms
        chosen = {section: model.trial for section, model in self.models.items()}
        found["models"] = {
            section: {"ms": trial.ms, "figures": trial.figures}
            for section, trial in chosen.items()
            if trial is not None
        }
        found["workers"] = self.workers
        found["worker_trials"] = [asdict(trial) for trial in self.worker_trials]
        return found

    @property
    def quantised(self) -> str:
        """Name of the int8 graphs that it was made with."""
        return int8_name(str(self.calibration["hash"]), self.versions.get("nncf", ""))

    def save(self, models: Path) -> Path:
        """Write `models/engines/plans/<key>/plan.json`, all at once; returns the file."""
        path = plan_path(models, self.key)
        path.parent.mkdir(parents=True, exist_ok=True)
        write_whole(path, json.dumps(asdict(self), indent=1, ensure_ascii=False) + "\n")
        return path


def plan_path(models: Path, key: str) -> Path:
    """Where the plan of that key is."""
    return models / "engines" / "plans" / key / "plan.json"


def load_plan(models: Path, key: str, *, pipeline: str) -> Plan:
    """Read a plan. Raises PlanError where there is none, naming the command that makes it."""
    path = plan_path(models, key)
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise PlanError(
            f"{pipeline}: no engine plan for these models on this machine; run: {BUILD} {pipeline}"
        ) from None
    except (OSError, ValueError) as error:
        raise PlanError(f"{path}: cannot be read ({error}); delete it and run: {BUILD}") from error
    return Plan.from_plain(data)


def all_plans(models: Path) -> list[Plan]:
    """Every plan under `models`, the newest first; those of another version's form are left out."""
    found = []
    for path in (models / "engines" / "plans").glob("*/plan.json"):
        try:
            found.append(Plan.from_plain(json.loads(path.read_text(encoding="utf-8"))))
        except (OSError, ValueError, KeyError, TypeError) as error:
            _LOG.info("%s is passed over: %s: %s", path, type(error).__name__, error)
    return sorted(found, key=lambda plan: plan.made, reverse=True)
