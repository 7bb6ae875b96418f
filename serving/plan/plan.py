"""The engine plan of a pipeline: the file that `build` writes and `serve` obeys.

models/engines/plans/<YAML's stem>-<hash of the parsed YAML and the cores>.json holds the device
that was chosen and, by kind of device, the plan that was measured for it; its sidecar has its hash,
and without that it is not obeyed. A plan lists what its
engines require (`requirements`). Serving compares these with this machine; what else could have
been chosen is looked at only by `build`.
"""

from __future__ import annotations

import hashlib
import json
import logging
import math
import platform
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from pydantic import ConfigDict, TypeAdapter, ValidationError

from serving.config.errors import problem
from serving.config.pipeline import PipelineConfig, check_supported
from serving.devices import check_alike, kind, parse_devices
from serving.disk import is_intact, sidecar, write_with_sidecar
from serving.engines.base import EngineSpec
from serving.engines.cuda import check_gpu
from serving.errors import BUILD, ConfigError, DeviceError, PlanError
from serving.machine import cpu_flags, cpu_name, share, usable_cores
from serving.models.files import digest
from serving.models.pipeline_models import PipelineModel
from serving.optimize.fuse import VARIANT
from serving.optimize.quantise import QUANTISED
from serving.plan.candidates import gpu_identity, version
from serving.plan.timing import GAIN

OBJECTIVE = "pages a second with a caller a core, single-request latency within 1.2 of the best; 9"
"""Every plan requires it. Change it when the way of measuring or choosing changes."""
_SIMD = ("avx", "amx", "fma", "sse4", "asimd", "sve", "bf16", "i8mm")
"""Parts of the CPU flags that engines look at."""
MODEL_KEYS_OF_NO_ENGINE = {
    *("module_name", "batch_size"),
    *("thresh", "box_thresh", "unclip_ratio", "tiling", "deskew"),
    *("score_thresh", "return_word_box"),
}
_KEYS_OF_NO_ENGINE: dict[str, Any] = {
    "order": True,
    "batch_size": True,
    "serving": True,
    "sub_modules": dict.fromkeys(
        ("detection", "orientation", "recognition"), MODEL_KEYS_OF_NO_ENGINE
    ),
    "sub_pipelines": {
        "doc_preprocessor": {
            "doubtful_pages_only": True,
            "batch_size": True,
            "sub_modules": dict.fromkeys(("orientation", "unwarping"), MODEL_KEYS_OF_NO_ENGINE),
        }
    },
}
"""These say how pages are read, whichever engines read them, and most may differ by request: of a
model, and of a pipeline."""

_LOG = logging.getLogger(__name__)


class _Record:
    """What is read from a file: pydantic refuses the fields of another version."""

    __slots__ = ()
    __pydantic_config__ = ConfigDict(extra="forbid")


@dataclass(frozen=True, slots=True)
class Trial(_Record):
    """One candidate of one model: its speed, its accuracy, and the verdict."""

    spec: EngineSpec
    verdict: str
    """chosen, accepted, slower (not judged), rejected (by the gate) or failed (does not run)."""
    ms: float | None = None
    """Shortest time of the model's workload."""
    figures: dict[str, float] = field(default_factory=dict)
    reason: str = ""
    noise: float = 0.0
    """Of its race, where that was left open: see timing.py. So below."""


@dataclass(frozen=True, slots=True)
class BatchTrial(_Record):
    """Short lines in calls of several, compared with the same lines one by one, on one engine."""

    time_ratio: float | None
    """Time of batches over time one by one."""
    parity: bool
    """Whether each line's result is bit for bit that of the line alone."""
    reason: str = ""
    """Why the engine takes only one line a call."""
    noise: float = 0.0

    @property
    def worthwhile(self) -> bool:
        """Whether lines are to be read in batches."""
        return self.parity and self.time_ratio is not None and self.time_ratio <= GAIN


@dataclass(frozen=True, slots=True)
class ModelPlan(_Record):
    """One model's trials and the engine it runs on."""

    model: str
    files: str
    """Digest of its folder."""
    trials: tuple[Trial, ...]
    choice: EngineSpec
    batch_trial: BatchTrial | None = None
    """Of a recogniser on a CPU, where more than one line a call is allowed."""
    hot_shapes: tuple[tuple[int, int], ...] = ()
    """(height, width) of inputs to run once before serving."""

    @property
    def trial(self) -> Trial | None:
        """The chosen engine's."""
        return next((trial for trial in self.trials if is_trial_of(trial, self.choice)), None)


def is_trial_of(trial: Trial, choice: EngineSpec) -> bool:
    """On a CPU the lines of a call are settled after the trials, so `batch` may differ."""
    return trial.spec == choice or (choice.kind == "cpu" and trial.spec == replace(choice, batch=1))


@dataclass(frozen=True, slots=True)
class Combination(_Record):
    """A set of engines, measured end to end."""

    engines: dict[str, str]
    pages_per_second: float
    latency_ms: float
    """Of a single request with a whole page ..."""
    small_latency_ms: float
    """... and of one with a small picture."""
    chosen: bool = False
    noise: float = 0.0


@dataclass(frozen=True, slots=True)
class WorkerTrial(_Record):
    """A number of worker processes that share the cores, measured together."""

    workers: int
    pages_per_second: float | None = None
    """Of all together."""
    latency_ms: float | None = None
    """Of a single request."""
    memory_mb: dict[str, int] = field(default_factory=dict)
    """Peak MiB of one process: `memory` and, with a GPU, `GPU memory`."""
    chosen: bool = False
    reason: str = ""
    """Why it was not chosen, or not measured."""
    noise: float = 0.0


@dataclass(frozen=True, slots=True)
class Plan(_Record):
    """The engines of a pipeline's models on one kind of device, and how they were found."""

    key: str
    """Of everything that the build compared; another key means that a build may find another."""
    made: str
    cores: int
    machine: dict[str, Any]
    versions: dict[str, str]
    """Of every backend that was tried."""
    gate: dict[str, Any]
    calibration: dict[str, Any]
    requirements: dict[str, str]
    models: dict[str, ModelPlan]
    combinations: tuple[Combination, ...] = ()
    cold_shape_ms: dict[str, float] = field(default_factory=dict)
    """Extra time of the first input of a shape that was not warmed, by model."""
    workers: int = 1
    """Worker processes with the highest throughput; on several GPUs, for each of them."""
    worker_trials: tuple[WorkerTrial, ...] = ()

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Plan:
        """The reverse of `dataclasses.asdict`, also after JSON. Raises pydantic.ValidationError."""
        return _PLAN.validate_python(data)

    def summary(self) -> dict[str, Any]:
        """The measurements of the chosen engines, as the server publishes them."""
        summary: dict[str, Any] = {"key": self.key, "made": self.made, "cores": self.cores}
        for item in self.combinations:
            if item.chosen:
                summary["pages_per_second"] = item.pages_per_second
                summary["latency_ms"] = item.latency_ms
                summary["small_latency_ms"] = item.small_latency_ms
        summary["models"] = {
            section: {"ms": model.trial.ms, "figures": model.trial.figures}
            for section, model in self.models.items()
            if model.trial is not None
        }
        summary["workers"] = self.workers
        summary["worker_trials"] = [asdict(trial) for trial in self.worker_trials]
        return summary

    @property
    def noise(self) -> float:
        """The largest that left a race of what was chosen open, as a share of its time; or 0."""
        models = self.models.values()
        trials = [trial for model in models for trial in (model.trial, model.batch_trial)]
        races = (*trials, *self.combinations, *self.worker_trials)
        return max((item.noise for item in races if item is not None), default=0.0)

    def warning(self, command: str) -> str:
        """What to say of a plan that a busy machine may have spoilt; else empty.

        command: builds it.
        """
        if not self.noise:
            return ""
        spread = f"{100 * self.noise:.0f} %"
        why = f"measured on a busy machine (spread {spread}): build again when quiet"
        return f"{why}: {command} --again"


@dataclass(frozen=True, slots=True)
class Deployment(_Record):
    """What was built for a pipeline YAML and a number of cores: the content of one file."""

    pipeline: str
    cores: int
    device: str
    """cpu, gpu:0 or gpu:0,1: what the last build was for."""
    plans: dict[str, Plan]
    """By kind of device: cpu, gpu. Empty where nothing was built."""

    def plan(self, device: str, requested: str | None = None) -> Plan:
        """The plan for `device` (cpu or gpu:0,1). Raises PlanError, which names the command.

        requested: the device that the user named, if any.
        """
        plan = self._plan(device)
        if plan is None:
            raise PlanError(
                f"{self.pipeline}: no engine plan for {device} with {self.cores} cores; run: "
                f"{self.command(requested)}"
            )
        return plan

    def workers(self, device: str) -> int:
        """Worker processes on `device` (cpu or gpu:0,1) that were measured best; else 1."""
        plan = self._plan(device)
        return 1 if plan is None else plan.workers * len(parse_devices(device))

    def latency_ms(self, device: str) -> float:
        """Of a single page on `device` (cpu or gpu:0,1); infinite where it was not measured."""
        plan = self._plan(device)
        measured = () if plan is None else plan.combinations
        return next((item.latency_ms for item in measured if item.chosen), math.inf)

    def command(self, device: str | None = None) -> str:
        """What builds it anew."""
        threads = "" if self.cores == usable_cores() else f" --threads {self.cores}"
        return f"{BUILD} {self.pipeline}{threads}" + (f" --device {device}" if device else "")

    def _plan(self, device: str) -> Plan | None:
        plan = self.plans.get(kind(device))
        each = share(self.cores, len(parse_devices(device)))
        return plan if plan is not None and plan.cores == each else None


_PLAN = TypeAdapter(Plan)
_DEPLOYMENT = TypeAdapter(Deployment)


def read_deployment(models: Path, config: PipelineConfig, cores: int) -> Deployment:
    """What was built for this pipeline and so many cores.

    Raises ConfigError for a YAML that has no plan, and PlanError for a damaged file.
    """
    check_supported(config)
    path = _path(models, config, cores)
    if not path.exists():
        return Deployment(config.source, cores, "cpu", {})
    return replace(_read(path, config.source), pipeline=config.source)


def save_plan(models: Path, config: PipelineConfig, cores: int, device: str, plan: Plan) -> None:
    """Record the plan, and `device` as the chosen one. Plans for other devices are kept."""
    before = _last(models, config, cores)
    plans = {**before.plans, kind(device): plan}
    deployment = Deployment(config.source, cores, device, plans)
    if deployment != before:
        path = _path(models, config, cores)
        path.parent.mkdir(parents=True, exist_ok=True)
        text = json.dumps(asdict(deployment), indent=1, ensure_ascii=False)
        write_with_sidecar(path, text + "\n")


def find_plan(
    config: PipelineConfig, models: Path, threads: int | None = None, device: str | None = None
) -> Plan:
    """The plan for so many cores and that device, as it was written.

    threads: default: all usable cores. device: cpu, gpu:0 or gpu:0,1; default: what was built.
    Raises PlanError, which names the command that makes the plan.
    """
    deployment = read_deployment(models, config, threads or usable_cores())
    return deployment.plan(device or deployment.device, device)


def all_deployments(models: Path) -> Iterator[Deployment]:
    """Every deployment under `models`; files that cannot be read are logged and left out."""
    for path in sorted((models / "engines" / "plans").glob("*-*.json")):
        try:
            yield _read(path)
        except PlanError as error:
            _LOG.info("%s", error)


def planned_workers(
    models: Path,
    configs: Iterable[PipelineConfig],
    cores: int,
    device: str | None = None,
    *,
    cpu_fallback: bool = False,
) -> int:
    """Worker processes for a server of these pipelines: the smallest number among their plans.

    Every worker serves them all, and their memory was measured one by one. 1 where nothing was
    built. device: default what was built. cpu_fallback: the CPU's number where that is a GPU which
    cannot be used. Raises PlanError for a damaged file.
    """
    found = (_deployed(models, config, cores, device, cpu_fallback) for config in configs)
    return min((deployment.workers(target) for deployment, target in found), default=1)


def planned_latency(
    models: Path,
    config: PipelineConfig,
    cores: int,
    device: str | None = None,
    *,
    cpu_fallback: bool = False,
) -> float:
    """Milliseconds of a single page; infinite where they were not measured.

    Arguments and errors as of `planned_workers`.
    """
    deployment, target = _deployed(models, config, cores, device, cpu_fallback)
    return deployment.latency_ms(target)


def _deployed(
    models: Path, config: PipelineConfig, cores: int, device: str | None, cpu_fallback: bool
) -> tuple[Deployment, str]:
    """What was built, and the device that it will run on."""
    deployment = read_deployment(models, config, cores)
    target = device or deployment.device
    if cpu_fallback and not _is_usable(target):
        target = "cpu"
    return deployment, target


def select_device(models: Path, config: PipelineConfig, cores: int) -> str:
    """The device to build for by default: a GPU where one can be used, else the CPU.

    Raises DeviceError where the last build chose a GPU that has gone: the CPU is never silent.
    """
    try:
        check_gpu("gpu:0")
    except DeviceError as error:
        before = _last(models, config, cores)
        if before.device != "cpu":
            raise DeviceError(
                f"{config.source} was last built for {before.device}, which cannot be used: "
                f"{error}; to build for the processor: --device cpu"
            ) from error
        return "cpu"
    return "gpu:0"


def requirements(
    config: PipelineConfig,
    found: Mapping[str, PipelineModel],
    choices: Mapping[str, EngineSpec],
    cores: int,
    device: str,
) -> dict[str, str]:
    """What these engines need of the models, the packages and the machine, as it is now.

    device: cpu or gpu:N. Raises DeviceError where that GPU is missing.
    """
    current = {f"files of {item.model.name}": digest(item.folder) for item in found.values()}
    backends = sorted({choice.backend for choice in choices.values()})
    current |= {backend: installed_version(backend) or "not installed" for backend in backends}
    hardware = machine(device)
    del hardware["cpu"]
    current |= {name: _text(value) for name, value in hardware.items()}
    gate = _text(config.gate.model_dump())
    if any(choice.precision == "int8" for choice in choices.values()):
        current["int8 graphs"] = QUANTISED
    return {**current, "graphs": VARIANT, "cores": str(cores), "gate": gate, "objective": OBJECTIVE}


def check_requirements(
    plan: Plan,
    config: PipelineConfig,
    found: Mapping[str, PipelineModel],
    device: str,
    command: str,
) -> None:
    """Raise PlanError that names what has changed since the plan was made, and the command."""
    choices = {section: model.choice for section, model in plan.models.items()}
    if missing := found.keys() - choices.keys():
        raise PlanError(f"{config.source}: the plan has no {', '.join(missing)}; run: {command}")
    current = requirements(config, found, choices, plan.cores, device)
    changes = [
        f"{name} was {value} when the plan was made and is {current.get(name, 'absent')} now"
        for name, value in plan.requirements.items()
        if current.get(name) != value
    ]
    if changes:
        raise PlanError(f"{config.source}: {'; '.join(changes)}; run: {command}")


def machine(device: str = "cpu") -> dict[str, Any]:
    """The processor and, where the device is a GPU, that: as engines see them.

    Raises DeviceError where that GPU is missing.
    """
    flags = sorted(flag for flag in cpu_flags() if any(part in flag for part in _SIMD))
    hardware = {"cpu": cpu_name(), "architecture": platform.machine(), "CPU flags": flags}
    return hardware if kind(device) == "cpu" else {**hardware, **gpu_identity(device)}


def installed_version(backend: str) -> str | None:
    """Version of a backend's package; None where it is not installed."""
    try:
        return version(backend)
    except ConfigError:
        return None


def key(content: Mapping[str, Any]) -> str:
    """A short hash of JSON content."""
    text = json.dumps(content, sort_keys=True, ensure_ascii=False)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def _path(models: Path, config: PipelineConfig, cores: int) -> Path:
    """The deployment's file. The hash finds it; the stem is for people, and may be a copy's."""
    pipeline = config.model_dump(mode="json", exclude=_KEYS_OF_NO_ENGINE)
    name = key({"pipeline": pipeline, "cores": cores})[:12]
    folder = models / "engines" / "plans"
    return next(folder.glob(f"*-{name}.json"), folder / f"{Path(config.source).stem}-{name}.json")


def check_intact(path: Path, command: str) -> None:
    """Raise PlanError, with the command, for a file that is not what was built."""
    if not is_intact(path):
        raise PlanError(
            f"{path}: is damaged: its sha256 is not the one in {sidecar(path).name}; run: {command}"
        )


def _read(path: Path, source: str = "") -> Deployment:
    """Raises PlanError, with the file and the command."""
    command = f"{BUILD} {source}".strip()
    try:
        check_intact(path, command)
        deployment = _DEPLOYMENT.validate_json(path.read_bytes())
        parse_devices(deployment.device)
        return deployment
    except ValidationError as error:
        first = error.errors()[0]
        reason = f"{'.'.join(map(str, first['loc']))}: {problem(first)}".removeprefix(": ")
    except (OSError, ConfigError) as error:
        reason = str(error)
    raise PlanError(f"{path}: cannot be read ({reason}); run: {command}")


def _last(models: Path, config: PipelineConfig, cores: int) -> Deployment:
    """For `build`, which replaces a damaged file."""
    try:
        return read_deployment(models, config, cores)
    except PlanError as error:
        _LOG.warning("%s", error)
        return Deployment(config.source, cores, "cpu", {})


def _is_usable(device: str) -> bool:
    try:
        check_alike(parse_devices(device))
    except DeviceError:
        return False
    return True


def _text(value: object) -> str:
    return value if isinstance(value, str) else json.dumps(value, sort_keys=True)
