"""Building a plan: a shortlist of each model, then the pipeline end to end."""

from __future__ import annotations

import datetime
import json
import time
from collections.abc import Callable, Iterable, Mapping
from contextlib import ExitStack, suppress
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter, ValidationError

from serving.config.pipeline import PipelineConfig
from serving.devices import check_alike, parse_devices
from serving.disk import disk_errors, is_intact, locked, write_with_sidecar
from serving.engines.base import EngineSpec
from serving.errors import ConfigError, PlanError
from serving.machine import share
from serving.models.files import digest, model_files
from serving.models.pipeline_models import PipelineModel, pipeline_models
from serving.optimize.fuse import VARIANT
from serving.optimize.quantise import QUANTISED
from serving.plan.bench import sample_inputs
from serving.plan.calibration import Calibration, calibration_hash, calibration_set
from serving.plan.candidates import candidates, requested_batch, version
from serving.plan.end_to_end import measure_combinations, whole_pages
from serving.plan.graphs import GraphOf, Graphs
from serving.plan.plan import (
    MODEL_KEYS_OF_NO_ENGINE,
    OBJECTIVE,
    ModelPlan,
    Plan,
    Trial,
    check_requirements,
    find_plan,
    installed_version,
    is_trial_of,
    key,
    machine,
    requirements,
    save_plan,
)
from serving.plan.shapes import cold_shape_ms, hot_shapes
from serving.plan.trials import heats, run_batch_trials, run_trials
from serving.plan.workers import with_workers, worker_counts
from serving.progress import Progress

_RECOGNITION = "TextRecognition"
_CLOSE = 1.1
"""Engines at up to so many times the time of a model's chosen one are measured end to end ..."""
_STREAMS = 2
"""... and so many of them are the same one on other streams."""
_TRIALS = TypeAdapter(list[Trial])


@dataclass(frozen=True, slots=True)
class PlanInputs:
    """What a build compares: the models and their candidates, by section of the YAML."""

    config: PipelineConfig
    parts: Mapping[str, PipelineModel]
    specs: Mapping[str, list[EngineSpec]]
    cores: int
    device: str = "cpu"
    """cpu or gpu:N."""

    def model(self, section: str) -> dict[str, Any]:
        """What a model's trials depend on: the model, its candidates, the gate, the YAML."""
        part, specs = self.parts[section], self.specs[section]
        return {
            "model": part.model.name,
            "files": digest(part.folder),
            "graph": VARIANT,
            "int8 graph": QUANTISED if any(spec.precision == "int8" for spec in specs) else "",
            "device": machine(next((spec.device for spec in specs if spec.kind == "gpu"), "cpu")),
            "engines": [
                {"version": version(spec.backend), **spec.to_dict(), "device": spec.kind}
                for spec in specs
            ],
            "gate": self.config.gate.model_dump(),
            "module": part.module.model_dump(
                mode="json", exclude={"model_dir", "hpi_config", *MODEL_KEYS_OF_NO_ENGINE}
            ),
            "objective": OBJECTIVE,
        }

    def key(self, calibration: str) -> str:
        """Changes whenever a build may find another plan. calibration: hash of the set."""
        return key(
            {
                "models": {section: self.model(section) for section in self.parts},
                "lines": requested_batch(self.config.hpi(self.parts[_RECOGNITION].module)),
                "cores": self.cores,
                "calibration": calibration,
            }
        )

    def versions(self) -> dict[str, str]:
        """Installed versions of all that the candidates need; "" for what is not installed."""
        specs = [spec for listed in self.specs.values() for spec in listed]
        backends = sorted({spec.backend for spec in specs})
        return {backend: installed_version(backend) or "" for backend in backends}

    def differences(self, plan: Plan, calibration: str) -> str:
        """How a build would differ from the one that made the plan; empty where it would not."""
        before, now = plan.versions, self.versions()
        changed = [
            f"{name} {before.get(name, 'absent')} -> {now.get(name, 'absent')}"
            for name in sorted(before.keys() | now.keys())
            if before.get(name) != now.get(name)
        ]
        if not changed and plan.key != self.key(calibration):
            changed = ["other candidates, calibration set or settings"]
        return ", ".join(changed)


def plan_inputs(
    config: PipelineConfig, models: Path, cores: int, device: str = "cpu"
) -> PlanInputs:
    """Read the models' folders and list their candidates.

    Raises ConfigError, ModelMissing, ModelInvalid, and DeviceError where the GPU is missing.
    """
    found = {part.section: part for part in pipeline_models(config, models)}
    specs = {}
    for section, part in found.items():
        try:
            specs[section] = candidates(
                config.hpi(part.module),
                cores=cores,
                device=device,
                # A few lines a page go to the classifier: on a processor one by one.
                lines=section == _RECOGNITION
                or (section == "TextLineOrientation" and device != "cpu"),
                paddle_graph=model_files(part.folder).paddle is not None,
                quantised=section in ("TextDetection", _RECOGNITION)
                and not config.gate.float32_only,
            )
        except ConfigError as error:
            raise ConfigError(f"{config.source}, for {section}: {error}") from error
    return PlanInputs(config, found, specs, cores, device)


@dataclass(frozen=True, slots=True)
class Builder:
    """Builds plans under one folder of models. Two builders at once wait for one another."""

    models: Path
    cores: int
    """Of all workers together."""
    progress: Progress
    own_images: Path | None = None
    """The user's calibration images, in addition to the rendered ones."""
    device: str = "cpu"
    """cpu, gpu:0 or gpu:0,1; the plan is measured on the first of equal GPUs."""
    again: bool = False
    """Whether to measure even where nothing has changed."""

    def build(self, config: PipelineConfig) -> tuple[Plan, bool]:
        """The pipeline's plan, recorded for serving, and whether it had to be measured.

        Raises ConfigError, ModelError, EngineError, DeviceError, DiskError and PlanError.
        """
        devices = parse_devices(self.device)
        check_alike(devices)
        inputs = plan_inputs(config, self.models, share(self.cores, len(devices)), devices[0])
        calibration = calibration_hash(self.own_images)
        engines = self.models / "engines"
        lock, waiting = engines / ".build.lock", f"waiting for another build in {engines}"
        with disk_errors(self.models), ExitStack() as stack:
            engines.mkdir(parents=True, exist_ok=True)
            stack.enter_context(locked(lock, lambda: self.progress.message(waiting)))
            plan = self._current(inputs, calibration)
            made = plan is None
            versions = inputs.versions()
            for backend in versions if made else ():  # before minutes of work
                version(backend)
            eta = Eta(self.progress, self._steps(inputs, calibration))
            try:
                self._fuse(config, inputs.parts.values(), eta)
                plan = plan or self._measure(inputs, versions, eta)
                for section, model in plan.models.items():
                    choice = model.choice
                    if choice.kind == "gpu":  # measured on one of several equal cards
                        choice = replace(choice, device=inputs.device)
                    self._graph(inputs.parts[section], choice)
            finally:
                eta.end()
            save_plan(self.models, config, self.cores, self.device, plan)
        return plan, made

    def build_graphs(self, config: PipelineConfig) -> None:
        """Only what engines load, on whatever machine: the plan is made where it will serve.

        Raises ConfigError, ModelError and EngineError.
        """
        parts = list(pipeline_models(config, self.models))
        eta = Eta(self.progress, sum(not Graphs(self.models).has(part) for part in parts))
        with disk_errors(self.models):
            try:
                self._fuse(config, parts, eta)
            finally:
                eta.end()

    def _current(self, inputs: PlanInputs, calibration: str) -> Plan | None:
        """The recorded plan, where a build would compare the same as the one that made it."""
        if self.again:
            return None
        try:
            plan = find_plan(inputs.config, self.models, self.cores, self.device)
            check_requirements(plan, inputs.config, inputs.parts, inputs.device, "")
        except PlanError:
            return None
        return None if inputs.differences(plan, calibration) else plan

    def _steps(self, inputs: PlanInputs, calibration: str) -> int:
        """How many steps a build without a plan takes."""
        graphs = Graphs(self.models)
        steps = sum(not graphs.has(part) for part in inputs.parts.values())
        for section, specs in inputs.specs.items():
            if self.again or not is_intact(self._trials_path(inputs, section, calibration)):
                steps += 1 + len(heats(inputs.parts[section], specs))
        counts = worker_counts(inputs.cores, inputs.device)
        return steps + 4 + (len(counts) if len(counts) > 1 else 0)

    def _fuse(self, config: PipelineConfig, parts: Iterable[PipelineModel], eta: Eta) -> None:
        graphs = Graphs(self.models)
        for part in parts:
            if not graphs.has(part):
                eta.begin(f"{part.model.name}: making the graph that engines load")
            convert = config.hpi(part.module).auto_paddle2onnx
            graphs.build(part.folder, part.model, self.progress, convert=convert)

    def _measure(self, inputs: PlanInputs, versions: dict[str, str], eta: Eta) -> Plan:
        config, found = inputs.config, inputs.parts
        batch = requested_batch(config.hpi(found[_RECOGNITION].module))
        eta.begin("reading the calibration set")
        calibration = calibration_set(self.own_images)
        graphs = {section: partial(self._graph, part) for section, part in found.items()}
        trials = {
            section: self._trials(inputs, section, graphs[section], calibration, eta)
            for section in found
        }
        shortlist = {section: _shortlist(section, listed) for section, listed in trials.items()}
        eta.begin(f"{found[_RECOGNITION].model.name}: reading short lines together")
        lines = run_batch_trials(
            found[_RECOGNITION], shortlist[_RECOGNITION], batch, graphs[_RECOGNITION], calibration
        )
        shortlist[_RECOGNITION] = [spec for spec, _ in lines]
        eta.begin("measuring whole pages")
        combinations, choice = measure_combinations(
            config, found, graphs, shortlist, calibration, inputs.cores
        )
        batch_trial = next(
            batch_trial for spec, batch_trial in lines if spec == choice[_RECOGNITION]
        )
        eta.begin("measuring what a cold shape costs")
        plan = Plan(
            key=inputs.key(calibration.hash),
            made=datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
            cores=inputs.cores,
            machine=machine(inputs.device),
            versions=versions,
            gate=config.gate.model_dump(),
            calibration=calibration.to_dict(),
            requirements=requirements(config, found, choice, inputs.cores, inputs.device),
            models={
                section: ModelPlan(
                    model=part.model.name,
                    files=digest(part.folder),
                    trials=_marked(trials[section], choice[section]),
                    choice=choice[section],
                    batch_trial=batch_trial if section == _RECOGNITION else None,
                    hot_shapes=hot_shapes(part, calibration, choice[section]),
                )
                for section, part in found.items()
            },
            combinations=combinations,
            cold_shape_ms={
                section: cold_shape_ms(part, graphs[section](choice[section]), choice[section])
                for section, part in found.items()
            },
        )
        pages = whole_pages(calibration)
        return with_workers(plan, config, self.models, inputs.device, pages, eta.begin)

    def _graph(self, part: PipelineModel, spec: EngineSpec) -> Path:
        """What an engine of that spec loads; int8 graphs and TensorRT's engines are built here."""
        graphs = Graphs(self.models)
        if spec.precision != "int8" and spec.backend != "tensorrt":
            return graphs.file(part, spec)
        fused = graphs.find(part.folder, part.model)
        if spec.precision == "int8":
            samples = partial(sample_inputs, part, fused, spec)
            return graphs.build_quantised(part, samples, self.progress)
        return graphs.build_tensorrt(part, spec, fused, self.progress)

    def _trials(
        self, inputs: PlanInputs, section: str, graph: GraphOf, calibration: Calibration, eta: Eta
    ) -> list[Trial]:
        """The model's trials, kept on disk: where one model changes, only that is measured."""
        path = self._trials_path(inputs, section, calibration.hash)
        if not self.again and is_intact(path):
            with suppress(OSError, ValidationError):
                return _TRIALS.validate_json(path.read_bytes())
        trials = run_trials(
            inputs.parts[section],
            inputs.specs[section],
            gate=inputs.config.gate,
            calibration=calibration,
            graph=graph,
            cores=inputs.cores,
            message=eta.begin,
        )
        path.parent.mkdir(parents=True, exist_ok=True)
        write_with_sidecar(path, json.dumps(_TRIALS.dump_python(trials), indent=1) + "\n")
        return trials

    def _trials_path(self, inputs: PlanInputs, section: str, calibration: str) -> Path:
        content = {**inputs.model(section), "calibration": calibration}
        name = inputs.parts[section].model.name
        return self.models / "engines" / "trials" / f"{name}-{key(content)}.json"


def _shortlist(section: str, trials: list[Trial]) -> list[EngineSpec]:
    """The chosen engine, the same one on other streams, and the best one of another backend.

    Only of the detector and the recogniser is it worth measuring how they share the cores. How
    often the shape changes, which costs one backend more than another, is up to the page.
    """
    best = next(trial for trial in trials if trial.verdict == "chosen")
    chosen = best.spec
    if section not in ("TextDetection", _RECOGNITION):
        return [chosen]
    others = [
        trial.spec
        for trial in sorted(trials, key=lambda trial: trial.ms or 0.0)
        if trial.verdict == "accepted" and (trial.ms or 0.0) <= _CLOSE * (best.ms or 0.0)
    ]
    kind = chosen.backend, chosen.precision
    same = [spec for spec in others if (spec.backend, spec.precision) == kind]
    another = [spec for spec in others if spec.backend != chosen.backend]
    return [chosen, *same[:_STREAMS], *another[:1]]


def _marked(trials: list[Trial], choice: EngineSpec) -> tuple[Trial, ...]:
    """The trials with the end-to-end choice marked in place of the model's own."""
    return tuple(
        replace(
            trial,
            verdict="chosen"
            if is_trial_of(trial, choice)
            else trial.verdict.replace("chosen", "accepted"),
        )
        for trial in trials
    )


class Eta:
    """Says which step of how many runs, and about how long the rest takes at the pace so far."""

    def __init__(
        self, progress: Progress, steps: int, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._progress, self._steps, self._clock = progress, steps, clock
        self._step, self._start = 0, clock()
        self._shown = ExitStack()

    def begin(self, what: str) -> None:
        """The step before is done, and this one begins; it is shown while it lasts."""
        self.end()
        self._step += 1
        self._shown.enter_context(self._progress.step(lambda: self.text(what)))

    def end(self) -> None:
        """Nothing is being done any more."""
        self._shown.close()

    def text(self, what: str) -> str:
        """`[3/20] what, about 80 s left`."""
        done, count = self._step - 1, max(self._step, self._steps)
        # As if three steps of 5 s had gone before: the first ones say little.
        each = (self._clock() - self._start + 15.0) / (done + 3)
        seconds = max(5, 5 * round(each * (count - done) / 5))
        return f"[{self._step}/{count}] {what}, about {seconds} s left"
