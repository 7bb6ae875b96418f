"""What built plans know of one model, whatever pipeline they were made for."""

from __future__ import annotations

from collections.abc import Sequence
from importlib import metadata
from pathlib import Path

from serving.config.gate import Gate
from serving.engines.base import EngineSpec
from serving.errors import ConfigError
from serving.plan.accuracy import verdict
from serving.plan.candidates import version
from serving.plan.keys import machine
from serving.plan.measure import fastest
from serving.plan.plan import ModelPlan, Trial, all_plans


def measured(
    models: Path, files: str, specs: Sequence[EngineSpec], gate: Gate
) -> EngineSpec | None:
    """The fastest of `specs`, the simplest first, that passes the gate for that model.

    files: the digest of its folder.

    A plan counts when it was made on this machine; a trial, when it had the cores of `specs` and
    the version of its backend that is installed. Of several trials of a spec the newest counts:
    one plan may have tried fewer than another, as its `hpi_config` narrowed it. A plan may have
    been made for another gate: its figures are held against this one.
    """
    newest: dict[str, Trial] = {}
    for plan in all_plans(models):
        if plan.machine != machine():
            continue
        for model in plan.models.values():
            if model.files != files:
                continue
            for trial in model.trials:
                installed = plan.versions.get(trial.spec.backend) == _installed(trial.spec.backend)
                if installed and trial.ms is not None and _passes(trial, model, gate):
                    newest.setdefault(str(trial.spec), trial)
    fits = [newest[str(spec)] for spec in specs if str(spec) in newest]
    return fits[fastest([[trial.ms or 0.0] for trial in fits])].spec if fits else None


def _passes(trial: Trial, model: ModelPlan, gate: Gate) -> bool:
    """Whether its arithmetic passes: how cores are shared among streams changes no result."""
    if gate.float32_only and trial.spec.precision != "float32":
        return False
    return any(
        verdict(gate, other.figures).accepted
        for other in model.trials
        if other.figures and _arithmetic(other.spec) == _arithmetic(trial.spec)
    )


def _arithmetic(spec: EngineSpec) -> tuple[str, str, dict[str, object]]:
    return spec.backend, spec.precision, dict(spec.options)


def _installed(backend: str) -> str | None:
    try:
        return version(backend)
    except (metadata.PackageNotFoundError, KeyError, ConfigError):
        return None
