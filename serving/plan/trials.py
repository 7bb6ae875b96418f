"""Short lines in calls of several: is that faster here, and does each still read the same?

The trials of one model: every candidate opened, judged by the gate and timed.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from serving.config.gate import Gate
from serving.config.model import RecognitionModel
from serving.engines.base import Engine, EngineSpec, batch_sizes
from serving.engines.factory import open_fused
from serving.errors import EngineError
from serving.models.pipeline_models import PipelineModel
from serving.ocr.recognise import Recogniser
from serving.ocr.scheduler import Scheduler
from serving.plan.bench import BENCHES, Bench
from serving.plan.calibration import Calibration
from serving.plan.gate import Verdict
from serving.plan.graphs import GraphOf
from serving.plan.plan import BatchTrial, Trial
from serving.plan.timing import GAIN, SLOWER, fastest, interleaved, milliseconds
from serving.types import Image

REFERENCE = "onnxruntime"
"""Backend of the reference, in float32."""

Say = Callable[[str], None]


def run_trials(
    part: PipelineModel,
    specs: list[EngineSpec],
    *,
    gate: Gate,
    calibration: Calibration,
    graph: GraphOf,
    cores: int,
    say: Say,
) -> list[Trial]:
    """Judge and time candidates, given the simplest first; the fastest accepted is `chosen`.

    A candidate that does not open or run has failed. One that is clearly slower than a simpler
    accepted one cannot win and is not judged. One that reads other text is rejected.
    """
    bench_of = BENCHES[part.section]
    reference_spec = EngineSpec(REFERENCE, "float32", streams=cores, threads=cores)
    say(f"{part.model.name}: what float32 ONNX Runtime reads")
    with closing(bench_of(part, _open(graph, reference_spec, part), calibration)) as oracle:
        reference = oracle.answers()
    judge = _Judge(gate, calibration, reference, graph)
    judge.know(reference_spec, bench_of.judge(gate, calibration, reference, reference))
    trials: list[Trial] = []
    racing: dict[int, Bench] = {}  # by place in `trials`
    quickest: Trial | None = None
    try:
        for spec in specs:
            say(f"{part.model.name}: trying {spec}")
            try:
                bench = bench_of(part, _open(graph, spec, part), calibration)
            except EngineError as error:
                trials.append(Trial(spec, "failed", reason=str(error)))
                continue
            trial = _tried(bench, judge, quickest)
            if trial.verdict == "accepted":
                racing[len(trials)] = bench
                quickest = min((quickest or trial, trial), key=_ms)
            else:
                bench.close()
            trials.append(trial)
        return _timed(trials, racing, part, say)
    finally:
        for raced in racing.values():
            raced.close()


def _open(graph: GraphOf, spec: EngineSpec, part: PipelineModel) -> Engine:
    return open_fused(graph(spec), spec, part.model)


def _tried(bench: Bench, judge: _Judge, quickest: Trial | None) -> Trial:
    """One candidate: timed once against the quickest simpler one, then judged."""
    spec = bench.engine.spec
    try:
        bench.warm()
        spent = round(milliseconds(bench.work), 3)
        if quickest is not None and spent > SLOWER * _ms(quickest):
            reason = f"not judged: slower than {quickest.spec}"
            return Trial(spec, "slower", spent, reason=reason)
        verdict = judge(bench)
    except EngineError as error:
        return Trial(spec, "failed", reason=str(error))
    word = "accepted" if verdict.accepted else "rejected"
    figures = {**verdict.figures, **{f"nodes_{by}": n for by, n in bench.engine.nodes.items()}}
    return Trial(spec, word, spent, figures, verdict.reason)


def _ms(trial: Trial) -> float:
    assert trial.ms is not None
    return trial.ms


class _Judge:
    """The gate's verdict on a bench's engine; streams share the arithmetic and so the verdict."""

    def __init__(
        self, gate: Gate, calibration: Calibration, reference: list[Any], graph: GraphOf
    ) -> None:
        self._gate, self._calibration, self._reference = gate, calibration, reference
        self._graph = graph
        self._verdicts: dict[str, Verdict] = {}

    def know(self, spec: EngineSpec, verdict: Verdict) -> None:
        """Take a verdict as given: the reference reads what the reference reads."""
        self._verdicts[self._arithmetic(spec)] = verdict

    def __call__(self, bench: Bench) -> Verdict:
        arithmetic = self._arithmetic(bench.engine.spec)
        if arithmetic not in self._verdicts:
            self._verdicts[arithmetic] = self._judge(bench)
        return self._verdicts[arithmetic]

    def _arithmetic(self, spec: EngineSpec) -> str:
        return f"{self._graph(spec)} {replace(spec, streams=1, threads=1).to_dict()}"

    def _judge(self, bench: Bench) -> Verdict:
        if self._gate.float32_only and bench.engine.spec.precision != "float32":
            return Verdict(False, "the gate allows float32 arithmetic only")
        return bench.judge(self._gate, self._calibration, self._reference, bench.answers())


def _way_out(trials: list[Trial]) -> str:
    """What to do when the gate is all that is in the way."""
    if not any(trial.verdict == "rejected" for trial in trials):
        return ""
    return (
        ". Let hpi_config allow other engines, or, to take such readings all the same, widen the "
        "gate in the pipeline's YAML, for example: gate: {h_mean: 0.9, error_rate: 0.1, "
        "accuracy_loss: 0.1}"
    )


def _timed(
    trials: list[Trial], racing: Mapping[int, Bench], part: PipelineModel, say: Say
) -> list[Trial]:
    """The trials with the times of those that race, and the winner marked."""
    if not racing:
        raise EngineError(
            f"{part.model.name}: no candidate passes: "
            + "; ".join(f"{trial.spec}: {trial.reason}" for trial in trials)
            + _way_out(trials)
        )
    say(f"{part.model.name}: timing {len(racing)} candidates")
    rounds = interleaved([bench.work for bench in racing.values()])
    winner = list(racing)[fastest(rounds)]
    for place, found in zip(racing, rounds, strict=True):
        verdict = "chosen" if place == winner else "accepted"
        trials[place] = replace(trials[place], ms=round(min(found), 3), verdict=verdict)
    return trials


MOST = 4
"""Lines of one call, where it pays: 8 of 96 pixels gain 6 % over 4, and each number is a shape."""


def pays(batch_trial: BatchTrial) -> bool:
    """Whether lines shall be read together."""
    return batch_trial.same and batch_trial.times is not None and batch_trial.times <= GAIN


def run_batch_trials(
    part: PipelineModel,
    specs: Sequence[EngineSpec],
    asked: int | None,
    graph: GraphOf,
    calibration: Calibration,
) -> list[tuple[EngineSpec, BatchTrial | None]]:
    """A recogniser's engines, each given as many short lines a call as pay, and how it reads them.

    asked: lines of one call that the YAML says; None: what pays.
    Raises EngineError where so many are asked for, and a line would read otherwise than alone.
    """
    found: list[tuple[EngineSpec, BatchTrial | None]] = []
    for spec in specs:
        if asked == 1 or spec.kind == "gpu":  # there the trials have it
            found.append((spec, None))
            continue
        batch_trial = _on(part, spec, graph(spec), calibration, asked or MOST)
        if asked and batch_trial is not None and not batch_trial.same:
            raise EngineError(
                f"{part.model.name}: {spec} does not read {asked} lines together as it reads "
                f"them alone; leave batch out of hpi_config.backend_config {batch_trial.reason}"
            )
        gains = not asked and batch_trial is not None and pays(batch_trial)
        found.append((replace(spec, batch=MOST) if gains else spec, batch_trial))
    return found


def _on(
    part: PipelineModel, spec: EngineSpec, graph: Path, calibration: Calibration, most: int
) -> BatchTrial | None:
    assert isinstance(part.model, RecognitionModel)
    with closing(open_fused(graph, spec, part.model)) as engine:
        reader = Recogniser(engine, part.model, restore_spaces=False)
        try:
            return measure_batches(engine, [reader.fit(crop) for crop in calibration.crops], most)
        except EngineError as error:
            return BatchTrial(reason=str(error))


def measure_batches(engine: Engine, lines: Sequence[Image], most: int = MOST) -> BatchTrial | None:
    """How the engine reads short lines, at most so many a call; None where too few are short.

    lines: (H, W, 3) uint8 as the recogniser fits them. Raises EngineError where it takes but one.
    """
    groups = _groups(lines, replace(engine.spec, batch=most))
    if not groups:
        return None
    one_by_one = [line[None] for group in groups for line in group]
    together = [np.stack(group) for group in groups]
    with closing(Scheduler(engine.spec.streams, name="batch_trial")) as pool:
        pool.run_on_every_thread(lambda: [engine.run(call) for call in (*one_by_one, *together)])
        alone, grouped = interleaved(
            [lambda: pool.map(engine.run, one_by_one), lambda: pool.map(engine.run, together)]
        )
    times = max(new / old for new, old in zip(grouped, alone, strict=True))
    return BatchTrial(round(times, 3), all(_reads_the_same(engine, group) for group in groups))


def _groups(lines: Sequence[Image], spec: EngineSpec) -> list[list[Image]]:
    """One call of lines for every width of which several go together."""
    by_width: defaultdict[int, list[Image]] = defaultdict(list)
    for line in lines:
        by_width[line.shape[1]].append(line)
    groups = []
    for width, alike in sorted(by_width.items()):
        there = replace(spec, batch=min(spec.batch, len(alike)))
        groups.append(alike[: there.max_batch(width)])
    return [group for group in groups if len(group) > 1]


def _reads_the_same(engine: Engine, group: Sequence[Image]) -> bool:
    """In every number of them that a call may have."""
    alone = [engine.run(line[None]) for line in group]
    for size in batch_sizes(len(group))[1:]:
        ones = map(np.concatenate, zip(*alone[:size], strict=True))
        together = engine.run(np.stack(group[:size]))
        if not all(map(np.array_equal, ones, together)):
            return False
    return True
