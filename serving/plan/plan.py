"""What a plan is for: a pipeline's models, the engines they may run on, the cores.

What an engine and a plan depend on, in words, and as keys made of these words.

A pipeline's engine plan: a file that a person can read and the server obeys.

What `build` chose for a pipeline: its device, which `serve` follows also when a GPU has gone,
and by device how many worker processes.

models/engines/plans/<key>.json, the key made of the YAML and the cores alone: which GPU a plan is
for cannot be asked once the GPU is not there, nor before the server has made its workers.
"""

from __future__ import annotations

import hashlib
import json
import logging
import platform
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from serving.config.pipeline import PipelineConfig
from serving.devices import check_alike, parse_devices
from serving.engines.base import EngineSpec
from serving.engines.cuda import check_gpu
from serving.errors import ConfigError, DeviceError, PlanError
from serving.machine import cpu_flags, cpu_name
from serving.models.disk import write_whole
from serving.models.files import digest, model_files
from serving.models.pipeline_models import PipelineModel, parts
from serving.optimize.fuse import VARIANT
from serving.plan.candidates import candidates, gpu_words, lines_asked, version

OBJECTIVE = "pages a second with a caller a core, lone latency within 1.2 of the best; 5"
"""Part of every plan's key. Change it when the way of measuring or choosing changes."""
_QUANTISED = 1
"""Part of an int8 graph's name. Change it when quantise.py makes another one."""

_TELLING = ("avx", "amx", "fma", "sse4", "asimd", "sve", "bf16", "i8mm")
"""Prefixes and parts of the CPU flags that engines look at."""


def machine(device: str = "cpu") -> dict[str, Any]:
    """The processor and, where the device is a GPU, that: as engines see them.

    Raises DeviceError where that GPU is not there.
    """
    flags = sorted(flag for flag in cpu_flags() if any(part in flag for part in _TELLING))
    words = {"cpu": cpu_name(), "architecture": platform.machine(), "flags": flags}
    return words if device == "cpu" else {**words, **gpu_words(device)}


def model_words(
    part: PipelineModel, specs: Sequence[EngineSpec], config: PipelineConfig
) -> dict[str, Any]:
    """What a model's trials depend on: the model, its candidates, the gate, what the YAML says."""
    return {
        "model": part.model.name,
        "files": digest(part.folder),
        "graph": VARIANT,
        "device": machine(next((spec.device for spec in specs if spec.kind == "gpu"), "cpu")),
        "engines": [
            {"version": version(spec.backend), **spec.to_dict(), "device": spec.kind}
            for spec in specs
        ],
        "gate": config.gate.model_dump(),
        "module": part.module.model_dump(mode="json", exclude={"model_dir", "hpi_config"}),
        "objective": OBJECTIVE,
    }


def plan_key(
    config: PipelineConfig,
    found: Mapping[str, PipelineModel],
    specs: Mapping[str, Sequence[EngineSpec]],
    cores: int,
) -> str:
    """The key of a pipeline's plan; the plan itself names its calibration set."""
    models = {section: model_words(part, specs[section], config) for section, part in found.items()}
    lines = lines_asked(config.hpi(found["TextRecognition"].module))
    return key({"models": models, "lines": lines, "cores": cores, "objective": OBJECTIVE})


def int8_name(calibration: str, nncf: str) -> str:
    """Name of the folder of an int8 graph: how it is made, the calibration set, NNCF's version."""
    return f"int8-{_QUANTISED}-{calibration}-nncf-{nncf}"


def key(words: Mapping[str, Any]) -> str:
    """A short name for these words."""
    text = json.dumps(words, sort_keys=True, ensure_ascii=False)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


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
class BatchTrial:
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
    batch_trial: BatchTrial | None = None
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
                    "batch_trial": BatchTrial(**item["batch_trial"])
                    if item["batch_trial"]
                    else None,
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


def deployed_device(models: Path, config: PipelineConfig, cores: int) -> str | None:
    """What the last build was for: cpu, gpu:0 or gpu:0,1; None where there was none.

    Raises PlanError for a file that cannot be read.
    """
    found = _read(_path(models, config, cores))
    return None if found is None else str(found["device"])


def planned_workers(
    models: Path,
    configs: Iterable[PipelineConfig],
    cores: int,
    device: str | None = None,
    *,
    cpu_fallback: bool = False,
) -> int:
    """Worker processes for a server of these pipelines: as few as were best for one of them.

    Every worker serves them all, and they were found to fit in memory alone. 1 where nothing was
    built. device: default what was built. cpu_fallback: the CPU's number where that is a GPU which
    cannot be used. Raises PlanError for a file that cannot be read.
    """
    numbers = []
    for config in configs:
        found = _read(_path(models, config, cores))
        if found is not None:
            place = device or found["device"]
            if cpu_fallback and not _is_usable(place):
                place = "cpu"
            numbers.append(found["workers"].get(place, 1))
    return min(numbers, default=1)


def _is_usable(device: str) -> bool:
    try:
        check_alike(parse_devices(device))
    except DeviceError:
        return False
    return True


def select_device(models: Path, config: PipelineConfig, cores: int) -> str:
    """What to build for where nobody says: a GPU where one can be used, else the CPU.

    Raises DeviceError where the last build chose a GPU, and it has gone: the CPU is never silent.
    """
    try:
        check_gpu("gpu:0")
    except DeviceError as error:
        before = deployed_device(models, config, cores)
        if before is not None and before != "cpu":
            raise DeviceError(
                f"{config.source} was last built for {before}, which cannot be used: {error}; to "
                "build for the processor: --device cpu"
            ) from error
        return "cpu"
    return "gpu:0"


def save_deployment(
    models: Path, config: PipelineConfig, cores: int, device: str, workers: int
) -> None:
    """Keep the choice, all at once, and the number of worker processes on other devices."""
    path = _path(models, config, cores)
    before = _read(path)
    told = {
        "pipeline": config.source,
        "cores": cores,
        "device": device,
        "workers": {**(before["workers"] if before else {}), device: workers},
    }
    if told != before:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_whole(path, json.dumps(told, indent=1) + "\n")


def _read(path: Path) -> dict[str, Any] | None:
    """What was recorded; None where nothing was. Raises PlanError."""
    try:
        found: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        parse_devices(found["device"])
        workers = found.get("workers", {})  # which older files do not have
        return {**found, "workers": {name: int(number) for name, number in workers.items()}}
    except FileNotFoundError:
        return None
    except (OSError, ValueError, KeyError, TypeError, AttributeError, ConfigError) as error:
        raise PlanError(
            f"{path}: cannot be read ({error}); delete it and run: bash scripts/build_engines.sh"
        ) from error


def _path(models: Path, config: PipelineConfig, cores: int) -> Path:
    words = {"pipeline": config.model_dump(mode="json"), "cores": cores}
    return models / "engines" / "plans" / f"{key(words)}.json"


@dataclass(frozen=True, slots=True)
class PlanInputs:
    """By section of the YAML: the models and their candidates. `key` names the plan for it."""

    config: PipelineConfig
    parts: Mapping[str, PipelineModel]
    specs: Mapping[str, list[EngineSpec]]
    cores: int
    key: str
    device: str = "cpu"
    """cpu or gpu:N."""


def plan_inputs(
    config: PipelineConfig, models: Path, cores: int, device: str = "cpu"
) -> PlanInputs:
    """Read the models' folders, once.

    Raises ConfigError, ModelMissing, ModelInvalid, and DeviceError where the GPU is not there.
    """
    found = {part.section: part for part in parts(config, models)}
    specs = {
        section: candidates(
            config.hpi(part.module),
            cores=cores,
            device=device,
            # A few lines a page go to the classifier: on a processor one by one.
            lines=section == "TextRecognition"
            or (section == "TextLineOrientation" and device != "cpu"),
            paddle_graph=model_files(part.folder).paddle is not None,
        )
        for section, part in found.items()
    }
    return PlanInputs(config, found, specs, cores, plan_key(config, found, specs, cores), device)
