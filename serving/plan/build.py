"""Making a pipeline's engine plan: graphs, trials of each model, then the pipeline end to end.

How far a build is: which step of how many, and about how long is left.

What the steps of a build are expected to take, for the time that is said to be left.
"""

from __future__ import annotations

import datetime
import json
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path

from filelock import FileLock

from serving.config.pipeline import PipelineConfig
from serving.devices import kind
from serving.engines.base import EngineSpec
from serving.errors import PlanError
from serving.models.conversion import needs_conversion
from serving.models.disk import write_whole
from serving.models.files import digest
from serving.models.pipeline_models import PipelineModel
from serving.models.progress import Progress
from serving.plan.calibration import Calibration, calibration_hash, calibration_set
from serving.plan.candidates import lines_asked, version
from serving.plan.end_to_end import measure_combinations, whole_pages
from serving.plan.graphs import Contexts, GraphOf, Graphs, nncf_version, require_nncf
from serving.plan.plan import (
    OBJECTIVE,
    ModelPlan,
    Plan,
    PlanInputs,
    Trial,
    int8_name,
    is_trial_of,
    key,
    load_plan,
    machine,
    model_words,
    plan_inputs,
)
from serving.plan.shapes import cold_shape_ms, hot_shapes
from serving.plan.trials import run_batch_trials, run_trials
from serving.plan.workers import with_workers, worker_counts

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

CONVERT, FUSE, RENDER, QUANTISE = 20.0, 1.0, 2.0, 12.0
COMPANY, PAGES, COLD = 4.0, 15.0, 2.0
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
    steps = [CONVERT if converted else FUSE for converted in graphs] + [RENDER]
    for listed in specs.values():
        if any(spec.precision == "int8" for spec in listed):
            steps.append(QUANTISE)
    for section, listed in specs.items():
        if section not in known:
            one = _TRIAL[section]
            steps += [_REFERENCE * one, *[one] * len(listed), _TIMING * one]
    return [*steps, COMPANY, PAGES, COLD, *[WORKERS] * workers]


_LINES = "TextRecognition"
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
        about = plan_inputs(config, self.models, self.cores, self.device)
        calibration = calibration_hash(self.own_images)
        engines = self.models / "engines"
        engines.mkdir(parents=True, exist_ok=True)
        with FileLock(engines / ".build.lock"):
            plan = _current(self.models, about, calibration)
            versions = {} if plan else _versions(about.specs)  # what is missing is told at once
            pace = Eta(self.progress, self._expected(about, calibration))
            try:
                self._fuse(about, pace)
                if plan is not None:
                    return plan, False
                plan = self._make(about, versions, pace)
            finally:
                pace.end()
            plan.save(self.models)
        return plan, True

    def _expected(self, about: PlanInputs, calibration: str) -> list[float]:
        graphs, engines = Graphs(self.models), self.models / "engines"
        missing = [part for part in about.parts.values() if not graphs.has(part)]
        known = {
            section
            for section in about.parts
            if self._trials_path(about, section, calibration).is_file()
        }
        converted = [needs_conversion(part.folder, engines) for part in missing]
        numbers = len(worker_counts(self.cores, self.device))
        return expected_seconds(converted, about.specs, known, numbers if numbers > 1 else 0)

    def _fuse(self, about: PlanInputs, pace: Eta) -> None:
        graphs = Graphs(self.models)
        for part in about.parts.values():
            if not graphs.has(part):
                pace.begin(f"{part.model.name}: making the graph that engines load")
            convert = about.config.hpi(part.module).auto_paddle2onnx
            graphs.build(part.folder, part.model, self.progress, convert=convert)

    def _make(self, about: PlanInputs, versions: dict[str, str], pace: Eta) -> Plan:
        config, found = about.config, about.parts
        asked = lines_asked(config.hpi(found[_LINES].module))
        pace.begin("rendering the calibration set")
        calibration = calibration_set(self.own_images)
        graphs = self._graphs(about, calibration, versions, pace)
        trials = {
            section: self._trials(about, section, graphs[section], calibration, pace)
            for section in found
        }
        shortlist = {section: _shortlist(section, listed) for section, listed in trials.items()}
        pace.begin(f"{found[_LINES].model.name}: reading short lines together")
        lines = run_batch_trials(
            found[_LINES], shortlist[_LINES], asked, graphs[_LINES], calibration
        )
        shortlist[_LINES] = [spec for spec, _ in lines]
        shapes = hot_shapes(found, calibration, kind(self.device))
        pace.begin("measuring whole pages")
        combinations, choice = measure_combinations(
            config, found, graphs, shortlist, shapes, calibration, self.cores
        )
        batch_trial = next(batch_trial for spec, batch_trial in lines if spec == choice[_LINES])
        pace.begin("measuring what a cold shape costs")
        plan = Plan(
            key=about.key,
            pipeline=config.source,
            made=datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
            cores=self.cores,
            machine=machine(self.device),
            versions=versions,
            gate=config.gate.model_dump(),
            calibration=calibration.to_dict(),
            objective=OBJECTIVE,
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
                section: cold_shape_ms(part, graphs[section], choice[section])
                for section, part in found.items()
            },
        )
        pages = whole_pages(calibration)
        return with_workers(plan, config, self.models, self.device, pages, pace.begin)

    def _graphs(
        self, about: PlanInputs, calibration: Calibration, versions: Mapping[str, str], pace: Eta
    ) -> dict[str, GraphOf]:
        """By section, the file for each engine; an int8 graph is made where one is wanted."""
        graphs = Graphs(self.models)
        int8 = int8_name(calibration.hash, versions.get("nncf", ""))
        for section, part in about.parts.items():
            if any(spec.precision == "int8" for spec in about.specs[section]):
                pace.begin(f"{part.model.name}: making an int8 graph")
                graphs.quantised(part, int8, calibration)
        return {section: partial(self._graph, part, int8) for section, part in about.parts.items()}

    def _graph(self, part: PipelineModel, int8: str, spec: EngineSpec) -> Path:
        """What an engine of that spec loads; TensorRT's engines are built here."""
        graphs = Graphs(self.models)
        if spec.backend == "tensorrt":
            fused = graphs.find(part.folder, part.model)
            return Contexts(self.models).build(part, spec, fused, self.progress)
        return graphs.file(part, int8, spec)

    def _trials(
        self, about: PlanInputs, section: str, graph: GraphOf, calibration: Calibration, pace: Eta
    ) -> list[Trial]:
        """The model's trials, kept on disk: where one model changes, only that is measured."""
        path = self._trials_path(about, section, calibration.hash)
        if path.is_file():
            return [Trial.from_plain(item) for item in json.loads(path.read_text(encoding="utf-8"))]
        trials = run_trials(
            about.parts[section],
            about.specs[section],
            gate=about.config.gate,
            calibration=calibration,
            graph=graph,
            cores=self.cores,
            say=pace.begin,
        )
        path.parent.mkdir(parents=True, exist_ok=True)
        write_whole(path, json.dumps([asdict(trial) for trial in trials], indent=1) + "\n")
        return trials

    def _trials_path(self, about: PlanInputs, section: str, calibration: str) -> Path:
        part, specs = about.parts[section], about.specs[section]
        words = {**model_words(part, specs, about.config), "calibration": calibration}
        if any(spec.precision == "int8" for spec in specs):
            words["nncf"] = nncf_version()
        return self.models / "engines" / "trials" / f"{part.model.name}-{key(words)}.json"


def _versions(specs: Mapping[str, list[EngineSpec]]) -> dict[str, str]:
    """Of all that the candidates need. Raises ConfigError, PlanError for what is not installed."""
    every = [spec for listed in specs.values() for spec in listed]
    found = {backend: version(backend) for backend in sorted({spec.backend for spec in every})}
    if any(spec.precision == "int8" for spec in every):
        found["nncf"] = require_nncf()
    return found


def _current(models: Path, about: PlanInputs, calibration: str) -> Plan | None:
    """The plan that is there, where it was made on this calibration set, by this NNCF.

    Where NNCF is no longer there, what it made is kept.
    """
    try:
        plan = load_plan(models, about.key, pipeline=about.config.source)
    except PlanError:
        return None
    quantiser = plan.versions.get("nncf")
    same = plan.calibration["hash"] == calibration
    return plan if same and (quantiser is None or nncf_version() in (None, quantiser)) else None


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
