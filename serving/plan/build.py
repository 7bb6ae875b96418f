"""Making a pipeline's engine plan: graphs, trials of each model, then the pipeline end to end."""

from __future__ import annotations

import datetime
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path

from filelock import FileLock

from serving.config.pipeline import PipelineConfig
from serving.engines.base import EngineSpec
from serving.errors import PlanError
from serving.parts import Part
from serving.plan.calibration import Calibration, calibration_hash, calibration_set
from serving.plan.candidates import version
from serving.plan.combine import measure_combinations
from serving.plan.contexts import Contexts
from serving.plan.graphs import Graphs
from serving.plan.keys import OBJECTIVE, key, machine, model_words
from serving.plan.plan import ModelPlan, Plan, Trial, load_plan
from serving.plan.shapes import cold_shape_ms, hot_shapes
from serving.plan.subject import Subject, subject
from serving.plan.trials import OpenGraph, run_trials
from serving.store import Progress
from serving.store.disk import write_whole
from serving.store.files import digest

_SHORTLIST = 3
"""Engines of a model that enter the end-to-end measurement ..."""
_CLOSE = 1.1
"""... the chosen one, and the same one on other streams, at up to so many times its time."""


@dataclass(frozen=True, slots=True)
class Builder:
    """Builds plans under one store of models. Two builders at once wait for one another."""

    models: Path
    cores: int
    progress: Progress
    own_images: Path | None = None
    """The user's calibration images, beside the rendered ones."""
    device: str = "cpu"
    """cpu or gpu:N."""

    def build(self, config: PipelineConfig) -> tuple[Plan, bool]:
        """The pipeline's plan, and whether it had to be made.

        Raises ConfigError, ModelError, EngineError and PlanError.
        """
        about = subject(config, self.models, self.cores, self.device)
        wanted = calibration_hash(self.own_images)
        engines = self.models / "engines"
        engines.mkdir(parents=True, exist_ok=True)
        with FileLock(engines / ".build.lock"):
            graphs = self._graphs(about)
            try:
                plan = load_plan(self.models, about.key, pipeline=config.source)
                if plan.calibration["hash"] == wanted:
                    return plan, False
            except PlanError:
                pass
            plan = self._make(about, graphs)
            plan.save(self.models)
        return plan, True

    def _graphs(self, about: Subject) -> dict[str, OpenGraph]:
        found: dict[str, OpenGraph] = {}
        for section, part in about.parts.items():
            convert = about.config.hpi(part.module).auto_paddle2onnx
            graph = Graphs(self.models).build(
                part.folder, part.model, self.progress, convert=convert
            )
            found[section] = partial(self._graph, part, graph)
        return found

    def _graph(self, part: Part, graph: Path, spec: EngineSpec) -> Path:
        """What an engine of that spec loads; TensorRT's engines are built here."""
        if spec.backend == "tensorrt":
            return Contexts(self.models).build(part, spec, graph, self.progress)
        return graph

    def _make(self, about: Subject, graphs: Mapping[str, OpenGraph]) -> Plan:
        config, found, specs = about.config, about.parts, about.specs
        self.progress.say("rendering the calibration set")
        calibration = calibration_set(self.own_images)
        trials = {
            section: self._trials(config, part, specs[section], graphs[section], calibration)
            for section, part in found.items()
        }
        shortlist = {section: _shortlist(section, listed) for section, listed in trials.items()}
        shapes = hot_shapes(found, calibration, self.device.partition(":")[0])
        self.progress.say("measuring whole pages")
        combinations, choice = measure_combinations(
            config, found, graphs, shortlist, shapes, calibration, self.cores
        )
        self.progress.say("measuring what a cold shape costs")
        backends = {spec.backend for listed in specs.values() for spec in listed}
        return Plan(
            key=about.key,
            pipeline=config.source,
            made=datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
            cores=self.cores,
            machine=machine(self.device),
            versions={backend: version(backend) for backend in sorted(backends)},
            gate=config.gate.model_dump(),
            calibration=calibration.describe(),
            objective=OBJECTIVE,
            models={
                section: ModelPlan(
                    model=part.model.name,
                    files=digest(part.folder),
                    trials=_marked(trials[section], choice[section]),
                    choice=choice[section],
                    hot_shapes=shapes[section],
                )
                for section, part in found.items()
            },
            combinations=combinations,
            cold_shape_ms={
                section: cold_shape_ms(part, graphs[section], choice[section])
                for section, part in found.items()
            },
        )

    def _trials(
        self,
        config: PipelineConfig,
        part: Part,
        specs: list[EngineSpec],
        graph: OpenGraph,
        calibration: Calibration,
    ) -> list[Trial]:
        """The model's trials, kept on disk: where one model changes, only that is measured."""
        words = {**model_words(part, specs, config), "calibration": calibration.hash}
        path = self.models / "engines" / "trials" / f"{part.model.name}-{key(words)}.json"
        if path.is_file():
            return [Trial.from_plain(item) for item in json.loads(path.read_text(encoding="utf-8"))]
        trials = run_trials(
            part,
            specs,
            gate=config.gate,
            calibration=calibration,
            graph=graph,
            cores=self.cores,
            say=self.progress.say,
        )
        path.parent.mkdir(parents=True, exist_ok=True)
        write_whole(path, json.dumps([asdict(trial) for trial in trials], indent=1) + "\n")
        return trials


def _shortlist(section: str, trials: list[Trial]) -> list[EngineSpec]:
    """The chosen engine, then the same engine sharing the cores among other streams.

    The line classifier sees a few lines a page: how it shares the cores is not worth measuring.
    """
    best = next(trial for trial in trials if trial.verdict == "chosen")
    chosen = best.spec
    if section == "TextLineOrientation":
        return [chosen]
    others = [
        trial
        for trial in trials
        if trial.verdict == "accepted"
        and (trial.spec.backend, trial.spec.precision) == (chosen.backend, chosen.precision)
        and (trial.ms or 0.0) <= _CLOSE * (best.ms or 0.0)
    ]
    others.sort(key=lambda trial: trial.ms or 0.0)
    return [chosen, *(trial.spec for trial in others)][:_SHORTLIST]


def _marked(trials: list[Trial], choice: EngineSpec) -> tuple[Trial, ...]:
    """The trials with the end-to-end choice marked in place of the model's own."""
    return tuple(
        replace(
            trial,
            verdict="chosen"
            if trial.spec == choice
            else trial.verdict.replace("chosen", "accepted"),
        )
        for trial in trials
    )
