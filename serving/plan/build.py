"""Building a plan: a shortlist of each model, then the pipeline end to end."""

from __future__ import annotations

import datetime
import json
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter, ValidationError

from serving.config.pipeline import PipelineConfig
from serving.devices import check_alike, kind, parse_devices
from serving.engines.base import EngineSpec
from serving.errors import ConfigError, PlanError
from serving.machine import share
from serving.models.conversion import needs_conversion
from serving.models.files import digest, disk_errors, locked, model_files, write_atomically
from serving.models.pipeline_models import PipelineModel, pipeline_models
from serving.models.progress import Progress
from serving.optimize.fuse import VARIANT
from serving.plan.calibration import Calibration, calibration_hash, calibration_set
from serving.plan.candidates import candidates, requested_batch, version
from serving.plan.end_to_end import measure_combinations, whole_pages
from serving.plan.graphs import GraphOf, Graphs, nncf_version, require_nncf
from serving.plan.plan import (
    OBJECTIVE,
    ModelPlan,
    Plan,
    Trial,
    check_requirements,
    find_plan,
    installed_version,
    int8_name,
    is_trial_of,
    key,
    machine,
    requirements,
    save_plan,
)
from serving.plan.shapes import cold_shape_ms, hot_shapes
from serving.plan.trials import run_batch_trials, run_trials
from serving.plan.workers import with_workers, worker_counts

_LINES = "TextRecognition"
_SHORTLIST = 3
"""Engines of a model that enter the end-to-end measurement ..."""
_CLOSE = 1.1
"""... the chosen one, and the same one on other streams, at up to so many times its time."""
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
            "device": machine(next((spec.device for spec in specs if spec.kind == "gpu"), "cpu")),
            "engines": [
                {"version": version(spec.backend), **spec.to_dict(), "device": spec.kind}
                for spec in specs
            ],
            "gate": self.config.gate.model_dump(),
            "module": part.module.model_dump(mode="json", exclude={"model_dir", "hpi_config"}),
            "objective": OBJECTIVE,
        }

    def key(self, calibration: str) -> str:
        """Changes whenever a build may find another plan. calibration: hash of the set."""
        return key(
            {
                "models": {section: self.model(section) for section in self.parts},
                "lines": requested_batch(self.config.hpi(self.parts[_LINES].module)),
                "cores": self.cores,
                "calibration": calibration,
            }
        )

    def versions(self) -> dict[str, str]:
        """Installed versions of all that the candidates need; "" for what is not installed."""
        specs = [spec for listed in self.specs.values() for spec in listed]
        backends = sorted({spec.backend for spec in specs})
        found = {backend: installed_version(backend) or "" for backend in backends}
        if any(spec.precision == "int8" for spec in specs):
            found["nncf"] = nncf_version() or ""
        return found

    def differences(self, plan: Plan, calibration: str) -> str:
        """How a build would differ from the one that made the plan; empty where it would not.

        What NNCF made is kept where NNCF is no longer installed.
        """
        now = self.versions()
        if not now.get("nncf", "x"):
            now["nncf"] = plan.versions.get("nncf", "")
        names = sorted(
            {name for name in now | plan.versions if now.get(name) != plan.versions.get(name)}
        )
        changed = [
            f"{name} {plan.versions.get(name, 'absent')} -> {now.get(name, 'absent')}"
            for name in names
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
                lines=section == _LINES or (section == "TextLineOrientation" and device != "cpu"),
                paddle_graph=model_files(part.folder).paddle is not None,
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
            versions = _checked_versions(inputs) if made else {}  # before minutes of work
            eta = Eta(self.progress, self._expected(inputs, calibration))
            try:
                self._fuse(inputs, eta)
                plan = plan or self._measure(inputs, versions, eta)
            finally:
                eta.end()
            save_plan(self.models, config, self.cores, self.device, plan)
        return plan, made

    def _current(self, inputs: PlanInputs, calibration: str) -> Plan | None:
        """The recorded plan, where a build would compare the same as the one that made it."""
        try:
            plan = find_plan(inputs.config, self.models, self.cores, self.device)
            check_requirements(plan, inputs.config, inputs.parts, inputs.device, "")
        except PlanError:
            return None
        return None if inputs.differences(plan, calibration) else plan

    def _expected(self, inputs: PlanInputs, calibration: str) -> list[float]:
        graphs, engines = Graphs(self.models), self.models / "engines"
        missing = [part for part in inputs.parts.values() if not graphs.has(part)]
        known = {
            section
            for section in inputs.parts
            if self._trials_path(inputs, section, calibration).is_file()
        }
        converted = [needs_conversion(part.folder, engines) for part in missing]
        numbers = len(worker_counts(inputs.cores, inputs.device))
        return expected_seconds(converted, inputs.specs, known, numbers if numbers > 1 else 0)

    def _fuse(self, inputs: PlanInputs, eta: Eta) -> None:
        graphs = Graphs(self.models)
        for part in inputs.parts.values():
            if not graphs.has(part):
                eta.begin(f"{part.model.name}: making the graph that engines load")
            convert = inputs.config.hpi(part.module).auto_paddle2onnx
            graphs.build(part.folder, part.model, self.progress, convert=convert)

    def _measure(self, inputs: PlanInputs, versions: dict[str, str], eta: Eta) -> Plan:
        config, found = inputs.config, inputs.parts
        batch = requested_batch(config.hpi(found[_LINES].module))
        eta.begin("reading the calibration set")
        calibration = calibration_set(self.own_images)
        graphs = self._graphs(inputs, calibration, versions, eta)
        trials = {
            section: self._trials(inputs, section, graphs[section], calibration, eta)
            for section in found
        }
        shortlist = {section: _shortlist(section, listed) for section, listed in trials.items()}
        eta.begin(f"{found[_LINES].model.name}: reading short lines together")
        lines = run_batch_trials(
            found[_LINES], shortlist[_LINES], batch, graphs[_LINES], calibration
        )
        shortlist[_LINES] = [spec for spec, _ in lines]
        shapes = hot_shapes(found, calibration, kind(inputs.device))
        eta.begin("measuring whole pages")
        combinations, choice = measure_combinations(
            config, found, graphs, shortlist, shapes, calibration, inputs.cores
        )
        batch_trial = next(batch_trial for spec, batch_trial in lines if spec == choice[_LINES])
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
                    batch_trial=batch_trial if section == _LINES else None,
                    hot_shapes=shapes[section],
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

    def _graphs(
        self, inputs: PlanInputs, calibration: Calibration, versions: Mapping[str, str], eta: Eta
    ) -> dict[str, GraphOf]:
        """By section, the file for each engine; an int8 graph is made where one is wanted."""
        graphs = Graphs(self.models)
        int8 = int8_name(calibration.hash, versions.get("nncf", ""))
        for section, part in inputs.parts.items():
            if any(spec.precision == "int8" for spec in inputs.specs[section]):
                eta.begin(f"{part.model.name}: making an int8 graph")
                graphs.build_int8(part, int8, calibration)
        return {section: partial(self._graph, part, int8) for section, part in inputs.parts.items()}

    def _graph(self, part: PipelineModel, int8: str, spec: EngineSpec) -> Path:
        """What an engine of that spec loads; TensorRT's engines are built here."""
        graphs = Graphs(self.models)
        if spec.backend == "tensorrt":
            fused = graphs.find(part.folder, part.model)
            return graphs.build_tensorrt(part, spec, fused, self.progress)
        return graphs.file(part, int8, spec)

    def _trials(
        self, inputs: PlanInputs, section: str, graph: GraphOf, calibration: Calibration, eta: Eta
    ) -> list[Trial]:
        """The model's trials, kept on disk: where one model changes, only that is measured."""
        path = self._trials_path(inputs, section, calibration.hash)
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
        write_atomically(path, json.dumps(_TRIALS.dump_python(trials), indent=1) + "\n")
        return trials

    def _trials_path(self, inputs: PlanInputs, section: str, calibration: str) -> Path:
        content = {**inputs.model(section), "calibration": calibration}
        if any(spec.precision == "int8" for spec in inputs.specs[section]):
            content["nncf"] = nncf_version()
        name = inputs.parts[section].model.name
        return self.models / "engines" / "trials" / f"{name}-{key(content)}.json"


def _checked_versions(inputs: PlanInputs) -> dict[str, str]:
    """Raises ConfigError and PlanError for what is not installed."""
    versions = inputs.versions()
    for backend in versions.keys() - {"nncf"}:
        version(backend)
    if "nncf" in versions:
        require_nncf()
    return versions


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
            if is_trial_of(trial, choice)
            else trial.verdict.replace("chosen", "accepted"),
        )
        for trial in trials
    )


_TRUST = 10.0
"""Seconds of work after which what was measured counts as much as what was expected."""


class Eta:
    """Follows steps whose seconds are guessed beforehand, and mends the guess by what they take.

    One thread begins and ends; any may ask for the text.
    """

    def __init__(
        self,
        progress: Progress,
        expected: Sequence[float],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """expected: seconds of each step on some machine; their ratios matter."""
        self._progress, self._clock = progress, clock
        self._expected = list(expected)
        self._step = 0
        self._start = self._since = clock()
        self._shown = ExitStack()

    def begin(self, what: str) -> None:
        """The step before is done, and this one begins; it is shown while it lasts."""
        self._shown.close()
        self._step += 1
        self._since = self._clock()
        self._shown.enter_context(self._progress.step(lambda: self.text(what)))

    def end(self) -> None:
        """Nothing is being done any more."""
        self._shown.close()

    def text(self, what: str) -> str:
        """`[3/20] what, about 1 min 20 s left`."""
        count = max(self._step, len(self._expected))
        return f"[{self._step}/{count}] {what}, about {in_words(self.seconds_left())} left"

    def seconds_left(self) -> float:
        """What was expected, times how much slower than expected it went so far."""
        before = sum(self._expected[: self._step - 1])
        here = sum(self._expected[self._step - 1 : self._step])
        after = sum(self._expected[self._step :])
        past, spent = self._since - self._start, self._clock() - self._since
        slowness = max(
            (past + _TRUST) / (before + _TRUST),
            (past + spent + _TRUST) / (before + here + _TRUST),  # this step is not done yet
        )
        return max(here * slowness - spent, 0.0) + after * slowness


def in_words(seconds: float) -> str:
    """`45 s`, `1 min 20 s`, `12 min`: as exact as a guess is."""
    minutes, rest = divmod(max(5, round(seconds / 5) * 5), 60)
    if minutes >= 10:
        return f"{minutes} min"
    return " ".join([*([f"{minutes} min"] if minutes else []), *([f"{rest} s"] if rest else [])])


_TRIAL = {"TextDetection": 3.0, "TextLineOrientation": 0.4, "TextRecognition": 5.0}
"""Seconds of one candidate's trial, on 2 cores with PP-OCRv4 mobile."""
_REFERENCE, _TIMING = 1.5, 1.5
"""The reading of the reference, and the timing of those that race: so many trials' time."""

CONVERT, FUSE, READ, QUANTISE = 20.0, 1.0, 0.2, 12.0
BATCHES, PAGES, COLD = 4.0, 15.0, 2.0
WORKERS = 30.0
"""Start of a number of worker processes, and two rounds beside a smaller one."""


def expected_seconds(
    graphs: list[bool], specs: Mapping[str, list[EngineSpec]], known: set[str], workers: int = 0
) -> list[float]:
    """Seconds of each step in order.

    graphs: for each graph that is missing, whether Paddle's must be converted for it.
    specs: candidates by section. known: sections whose trials are on disk. workers: numbers of
    worker processes to measure.
    """
    steps = [CONVERT if converted else FUSE for converted in graphs] + [READ]
    for listed in specs.values():
        if any(spec.precision == "int8" for spec in listed):
            steps.append(QUANTISE)
    for section, listed in specs.items():
        if section not in known:
            one = _TRIAL[section]
            steps += [_REFERENCE * one, *[one] * len(listed), _TIMING * one]
    return [*steps, BATCHES, PAGES, COLD, *[WORKERS] * workers]
