"""Which engine a model of PaddleX's gets, from the plans that were built here."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from serving.config.gate import Gate
from serving.config.pipeline import HpiConfig
from serving.engines.base import EngineSpec
from serving.errors import BUILD, ConfigError, EngineError
from serving.machine import usable_cores
from serving.models.files import digest, model_files
from serving.models.probe import model_kind
from serving.plan.candidates import candidates
from serving.plan.plan import (
    ModelPlan,
    Trial,
    all_deployments,
    installed_version,
    key,
    machine,
)
from serving.plan.timing import fastest

_LOG = logging.getLogger(__name__)
_PADDLEX_LOG = logging.getLogger("paddlex.serving")
"""Has PaddleX's handler and level, so that its users see what is logged."""

_PLAIN_ONNX = {"openvino", "onnxruntime"}
"""Backends that load the model's own ONNX graph."""


@dataclass(frozen=True, slots=True)
class ModelRequest:
    """A model that PaddleX is opening with HPI."""

    name: str
    folder: Path
    device: str
    """In PaddleX's words: cpu, gpu, npu, ..."""
    hpi: HpiConfig


Choose = Callable[[ModelRequest], Sequence[EngineSpec]]
"""Chooses an engine: the first of these that loads the model; one where a plan or the user says.
Raises ConfigError or EngineError where the request cannot be met."""


def planned(models: Path, gate: Gate) -> Choose:
    """The fastest engine that the plans under `models` found to pass the gate.

    A plan is measured on the fused graph, and PaddleX's model runs on its own: the layers, and so
    what a precision does to them, are the same; the fused graph only has the normalisation before
    them and the arg-max after them inside. PaddleX runs one call at a time, so that it is an
    engine of one stream on all cores, unless `hpi_config` sets another. The lines of a
    recogniser's batch run in parallel, on as many streams as were fastest.

    `hpi_config` narrows the choice. A model without a plan gets the simplest candidate of the first
    backend that loads it, by default float32 OpenVINO; which is a warning, once per model. What
    runs otherwise is logged as PaddleX logs what it opens.
    """
    logged: set[Path] = set()

    def choose(request: ModelRequest) -> Sequence[EngineSpec]:
        allowed = _allowed(request)
        if not request.hpi.auto_config:
            _PADDLEX_LOG.info("%s runs on %s: hpi_config says so", request.name, allowed[0])
            return allowed[:1]
        specs = [spec for spec in allowed if spec.backend in _PLAIN_ONNX]
        in_parallel = model_kind(request.folder) == "text_recognition"  # see EngineRunner
        if not in_parallel and "streams" not in (request.hpi.backend_config or {}):
            specs = [spec for spec in specs if spec.streams == 1]
        best = measured(models, digest(request.folder), specs, gate)
        if best is not None:
            why = f"the fastest in the plans under {models} that passes the gate"
            _PADDLEX_LOG.info("%s runs on %s: %s", request.name, best, why)
            return [best]
        first: dict[str, EngineSpec] = {}
        for spec in allowed:
            first.setdefault(spec.backend, spec)
        simplest = list(first.values())
        if request.folder not in logged:
            logged.add(request.folder)
            _LOG.warning("%s: %s", request.name, _unplanned(request, simplest))
        return simplest

    return choose


def measured(
    models: Path, files: str, specs: Sequence[EngineSpec], gate: Gate
) -> EngineSpec | None:
    """The fastest of `specs`, the simplest first, that passes the gate for a model.

    files: digest of the model's folder.

    Plans of this machine count; of their trials those with the cores of `specs` and the installed
    version of the backend. Of several trials of a spec the newest counts: one plan may have tried
    fewer than another, as its `hpi_config` narrowed it. Figures are compared with this gate,
    whatever gate the plan was made for.
    """
    hardware = machine()
    plans = [plan for item in all_deployments(models) for plan in item.plans.values()]
    newest: dict[str, Trial] = {}
    for plan in sorted(plans, key=lambda plan: plan.made, reverse=True):
        if plan.machine != hardware:
            continue
        for model in plan.models.values():
            if model.files != files:
                continue
            for trial in model.trials:
                backend = trial.spec.backend
                current = plan.versions.get(backend) == installed_version(backend)
                if current and trial.ms is not None and _passes(trial, model, gate):
                    newest.setdefault(key(trial.spec.to_dict()), trial)
    trials = [newest[spec] for spec in (key(spec.to_dict()) for spec in specs) if spec in newest]
    return trials[fastest([trial.ms or 0.0 for trial in trials])].spec if trials else None


def _passes(trial: Trial, model: ModelPlan, gate: Gate) -> bool:
    """Whether its arithmetic passes: how cores are shared among streams changes no result."""
    from serving.plan.gate import verdict  # here: what scores boxes and texts takes 45 ms to import

    if gate.float32_only and trial.spec.precision != "float32":
        return False
    return any(
        verdict(gate, other.figures).accepted
        for other in model.trials
        if other.figures and _arithmetic(other.spec) == _arithmetic(trial.spec)
    )


def _arithmetic(spec: EngineSpec) -> tuple[str, str, dict[str, object]]:
    return spec.backend, spec.precision, dict(spec.options)


def _allowed(request: ModelRequest) -> list[EngineSpec]:
    """Raises ConfigError for an `hpi_config` that nothing fits, EngineError for another device."""
    if request.device != "cpu":
        raise EngineError(
            f"{request.name}: PaddleX asks for the device {request.device!r}, and the engines here "
            "run on the CPU; pass device='cpu'"
        )
    has_paddle = model_files(request.folder).paddle is not None
    try:
        return candidates(request.hpi, cores=usable_cores(), paddle_graph=has_paddle)
    except ConfigError as error:
        raise ConfigError(f"{request.name}: {error}") from None


def _unplanned(request: ModelRequest, specs: Sequence[EngineSpec]) -> str:
    runs = "runs on " + ", or if that cannot load it on ".join(map(str, specs))
    if model_kind(request.folder) is None:
        return f"{runs}: the accuracy gate knows no model of this kind, so it has no plan"
    return (
        f"{runs}: no engine plan of this machine, these cores and these backends' versions "
        f"has {request.folder}. To measure it, name that folder as model_dir in a pipeline "
        f"YAML and run: {BUILD} PIPELINE.yaml"
    )
