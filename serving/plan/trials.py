"""The trials of one model: every candidate judged and timed; then short lines in batches."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from contextlib import closing
from dataclasses import replace
from pathlib import Path

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
from serving.plan.timing import SLOWER, fastest, interleaved, milliseconds
from serving.types import Image

REFERENCE = "onnxruntime"
"""Backend of the reference, in float32."""
_BATCH = 4
"""Lines of one call on a CPU, where worthwhile: 8 of 96 pixels gain 6 % over 4, and every size has
to be warmed."""


def run_trials(
    part: PipelineModel,
    specs: Sequence[EngineSpec],
    *,
    gate: Gate,
    calibration: Calibration,
    graph: GraphOf,
    cores: int,
    message: Callable[[str], None],
) -> list[Trial]:
    """Judge and time candidates, the simplest first; the fastest accepted one is `chosen`.

    A candidate that does not open or run has failed. One that is clearly slower than a simpler
    accepted one cannot win and is not judged. One that reads other text is rejected.
    message: shows progress. Raises EngineError where none is accepted.
    """
    name = part.model.name

    def open_bench(spec: EngineSpec) -> Bench:
        return BENCHES[part.section](part, open_fused(graph(spec), spec, part.model), calibration)

    reference_spec = EngineSpec(REFERENCE, "float32", streams=cores, threads=cores)
    message(f"{name}: reading with the reference, float32 ONNX Runtime")
    with closing(open_bench(reference_spec)) as bench:
        judge = _Judge(gate, bench, graph)
    trials: list[Trial] = []
    accepted: dict[int, Bench] = {}  # by index in `trials`
    quickest: Trial | None = None
    try:
        for spec in specs:
            message(f"{name}: trying {spec}")
            try:
                bench = open_bench(spec)
            except EngineError as error:
                trials.append(Trial(spec, "failed", reason=str(error)))
                continue
            trial = _run_trial(bench, judge, quickest)
            if trial.verdict == "accepted":
                accepted[len(trials)] = bench
                quickest = min((quickest or trial, trial), key=_ms)
            else:
                bench.close()
            trials.append(trial)
        if not accepted:
            raise EngineError(_no_candidate(name, trials))
        message(f"{name}: timing {len(accepted)} candidates")
        return _timed(trials, accepted)
    finally:
        for bench in accepted.values():
            bench.close()


def _run_trial(bench: Bench, judge: _Judge, quickest: Trial | None) -> Trial:
    """One candidate: timed once against the quickest simpler one, then judged."""
    spec = bench.engine.spec
    try:
        bench.warm()
        ms = round(milliseconds(bench.work), 3)
        if quickest is not None and ms > SLOWER * _ms(quickest):
            return Trial(spec, "slower", ms, reason=f"not judged: slower than {quickest.spec}")
        verdict = judge(bench)
    except EngineError as error:
        return Trial(spec, "failed", reason=str(error))
    nodes = {f"nodes_{provider}": count for provider, count in bench.engine.nodes.items()}
    word = "accepted" if verdict.accepted else "rejected"
    return Trial(spec, word, ms, {**verdict.figures, **nodes}, verdict.reason)


def _timed(trials: list[Trial], accepted: Mapping[int, Bench]) -> list[Trial]:
    """The trials with the times of the accepted ones, and the winner marked."""
    rounds = interleaved([bench.work for bench in accepted.values()])
    winner = list(accepted)[fastest(rounds)]
    for index, times in zip(accepted, rounds, strict=True):
        verdict = "chosen" if index == winner else "accepted"
        trials[index] = replace(trials[index], ms=round(min(times), 3), verdict=verdict)
    return trials


def _no_candidate(name: str, trials: Sequence[Trial]) -> str:
    reasons = "; ".join(f"{trial.spec}: {trial.reason}" for trial in trials)
    text = f"{name}: no candidate passes: {reasons}"
    if not any(trial.verdict == "rejected" for trial in trials):
        return text
    return (
        f"{text}. Let hpi_config allow other engines, or, to accept such results nevertheless, "
        "widen the gate in the pipeline's YAML, for example: gate: {h_mean: 0.9, error_rate: 0.1, "
        "accuracy_loss: 0.1}"
    )


def _ms(trial: Trial) -> float:
    assert trial.ms is not None
    return trial.ms


class _Judge:
    """The gate's verdict on a bench's engine: one for all numbers of streams and threads."""

    def __init__(self, gate: Gate, reference: Bench, graph: GraphOf) -> None:
        self._gate, self._graph = gate, graph
        self._reference = answers = reference.answers()
        verdict = reference.judge(gate, answers, answers)
        self._verdicts = {self._arithmetic(reference.engine.spec): verdict}

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
        return bench.judge(self._gate, self._reference, bench.answers())


def run_batch_trials(
    part: PipelineModel,
    specs: Sequence[EngineSpec],
    requested: int | None,
    graph: GraphOf,
    calibration: Calibration,
) -> list[tuple[EngineSpec, BatchTrial | None]]:
    """A recogniser's engines, each with as many short lines a call as are worthwhile.

    On a GPU `run_trials` has tried batches already.
    requested: lines of one call in the YAML; None: what is worthwhile.
    Raises EngineError where a line in a requested batch reads otherwise than alone.
    """
    results: list[tuple[EngineSpec, BatchTrial | None]] = []
    for spec in specs:
        if requested == 1 or spec.kind == "gpu":
            results.append((spec, None))
            continue
        trial = _batch_trial(part, spec, graph(spec), calibration, requested or _BATCH)
        if requested and trial is not None and not trial.parity:
            raise EngineError(
                f"{part.model.name}: {spec} does not read {requested} lines together as it reads "
                f"them alone; leave batch out of hpi_config.backend_config {trial.reason}"
            )
        if not requested and trial is not None and trial.worthwhile:
            spec = replace(spec, batch=_BATCH)
        results.append((spec, trial))
    return results


def _batch_trial(
    part: PipelineModel, spec: EngineSpec, graph: Path, calibration: Calibration, batch: int
) -> BatchTrial | None:
    assert isinstance(part.model, RecognitionModel)
    with closing(open_fused(graph, spec, part.model)) as engine:
        reader = Recogniser(engine, part.model, restore_spaces=False)
        try:
            return measure_batches(engine, [reader.fit(crop) for crop in calibration.crops], batch)
        except EngineError as error:
            return BatchTrial(None, parity=False, reason=str(error))


def measure_batches(
    engine: Engine, lines: Sequence[Image], batch: int = _BATCH
) -> BatchTrial | None:
    """Short lines in calls of up to `batch` against one by one; None where too few are short.

    lines: (H, W, 3) uint8 as the recogniser fits them. Raises EngineError where the engine takes
    only one line a call.
    """
    groups = _batches(lines, replace(engine.spec, batch=batch))
    if not groups:
        return None
    one_by_one = [line[None] for group in groups for line in group]
    batches = [np.stack(group) for group in groups]
    with closing(Scheduler(engine.spec.streams, name="batch-trial")) as pool:
        pool.run_on_every_thread(lambda: [engine.run(call) for call in (*one_by_one, *batches)])
        alone, batched = interleaved(
            [lambda: pool.map(engine.run, one_by_one), lambda: pool.map(engine.run, batches)]
        )
    ratio = max(new / old for new, old in zip(batched, alone, strict=True))
    return BatchTrial(round(ratio, 3), all(_has_parity(engine, group) for group in groups))


def _batches(lines: Sequence[Image], spec: EngineSpec) -> list[list[Image]]:
    """One call's lines for every width of which several fit into a call."""
    by_width: defaultdict[int, list[Image]] = defaultdict(list)
    for line in lines:
        by_width[line.shape[1]].append(line)
    groups = []
    for width, group in sorted(by_width.items()):
        available = replace(spec, batch=min(spec.batch, len(group)))
        groups.append(group[: available.max_batch(width)])
    return [group for group in groups if len(group) > 1]


def _has_parity(engine: Engine, group: Sequence[Image]) -> bool:
    """Whether batches of every size give each line's own result, bit for bit."""
    alone = [engine.run(line[None]) for line in group]
    for size in batch_sizes(len(group))[1:]:
        expected = map(np.concatenate, zip(*alone[:size], strict=True))
        if not all(map(np.array_equal, expected, engine.run(np.stack(group[:size])))):
            return False
    return True
