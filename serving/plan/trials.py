"""The trials of one model: every candidate judged and timed; then short lines in batches."""

from __future__ import annotations

import itertools
from collections import defaultdict
from collections.abc import Callable, Sequence
from contextlib import ExitStack, closing
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np

from serving.config.gate import Gate
from serving.config.model import OrientationModel, PageOrientationModel, RecognitionModel
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
from serving.plan.timing import fastest, race, timed
from serving.types import Image

_SLOWER = 1.2
"""Who takes so many times as long as the best one is not judged."""
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
    """Race and judge candidates, the simplest first; the fastest accepted one is `chosen`.

    Those of one heat race in turn with the best so far. One that is clearly
    slower cannot win and is not judged; one that reads other text is rejected; one that does not
    open or run has failed.
    message: shows progress. Raises EngineError where none is accepted.
    """
    name = part.model.name

    unmade: dict[tuple[str, str], EngineError] = {}

    def open_bench(spec: EngineSpec) -> Bench:
        kind = spec.backend, spec.precision
        if kind in unmade:  # making it took long, and would fail again
            raise unmade[kind]
        try:
            path = graph(spec)
        except EngineError as error:
            unmade[kind] = error
            raise
        return BENCHES[part.section](part, open_fused(path, spec, part.model), calibration)

    def open_warm(spec: EngineSpec) -> Bench:
        with ExitStack() as stack:
            bench = stack.enter_context(closing(open_bench(spec)))
            bench.warm()
            stack.pop_all()
        return bench

    reference_spec = EngineSpec(REFERENCE, "float32", streams=cores, threads=cores)
    message(f"{name}: reading with the reference, float32 ONNX Runtime")
    with closing(open_bench(reference_spec)) as bench:
        # The gate judges arithmetic, not padding; ONNX Runtime's arithmetic is the reference's own.
        bench.fit_as(next((spec for spec in specs if spec.backend != REFERENCE), specs[0]))
        judge = _Judge(gate, bench, graph)
    trials: dict[str, Trial] = {}
    best: Bench | None = None
    benches: list[Bench] = []
    try:
        for heat in heats(part, specs):
            kinds = dict.fromkeys(f"{spec.backend} {spec.precision}" for spec in heat)
            message(f"{name}: trying {', '.join(kinds)}")
            benches = [] if best is None else [best]
            for spec in heat:
                try:
                    benches.append(open_warm(spec))
                except EngineError as error:
                    trials[str(spec)] = Trial(spec, "failed", reason=str(error))
            best = _run_heat(benches, judge, trials) if benches else None
            for bench in benches:
                if bench is not best:
                    bench.close()
            benches = [] if best is None else [best]
    finally:
        for bench in benches:
            bench.close()
    ordered = [trials[str(spec)] for spec in specs]
    if best is None:
        raise EngineError(_no_candidate(name, ordered))
    chosen = best.engine.spec
    return [replace(t, verdict="chosen") if t.spec == chosen else t for t in ordered]


def heats(part: PipelineModel, specs: Sequence[EngineSpec]) -> list[list[EngineSpec]]:
    """The specs that race together: those of one backend and precision.

    Of a classifier all do: its engines are small, and a heat takes two seconds at least.
    """
    if isinstance(part.model, OrientationModel | PageOrientationModel):
        return [list(specs)]
    kinds = itertools.groupby(specs, lambda spec: (spec.backend, spec.precision))
    return [list(heat) for _, heat in kinds]


def _run_heat(benches: Sequence[Bench], judge: _Judge, trials: dict[str, Trial]) -> Bench | None:
    """The fastest that passes the gate; the trials of all are added or replaced.

    benches: warm, the simplest first; the best of earlier heats before them.
    """
    found = race([timed(bench.work) for bench in benches])
    ms = {bench: round(time, 3) for bench, time in zip(benches, found.ms, strict=True)}

    def add(bench: Bench, trial: Trial) -> Trial:
        before = trials.get(str(trial.spec))  # the best of earlier heats keeps their noise
        noise = found.noise if before is None else max(found.noise, before.noise)
        trials[str(trial.spec)] = replace(trial, ms=ms[bench], noise=noise)
        return trial

    best: Bench | None = None
    others = list(benches)
    while best is None and others:
        bench = others.pop(fastest([ms[other] for other in others]))
        best = bench if add(bench, judge(bench)).verdict == "accepted" else None
    if best is None:
        return None
    for bench in others:
        if ms[bench] <= _SLOWER * ms[best] or judge.knows(bench):
            add(bench, judge(bench))
        else:
            reason = f"not judged: slower than {best.engine.spec}"
            add(bench, Trial(bench.engine.spec, "slower", reason=reason))
    return best


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


class _Judge:
    """The gate's verdict on a bench's engine: one for all numbers of streams and threads."""

    def __init__(self, gate: Gate, reference: Bench, graph: GraphOf) -> None:
        self._gate, self._graph = gate, graph
        self._reference = answers = reference.answers()
        verdict = reference.judge(gate, answers, answers)
        self._verdicts = {self._arithmetic(reference.engine.spec): verdict}

    def knows(self, bench: Bench) -> bool:
        """Whether an engine with the same arithmetic was judged."""
        return self._arithmetic(bench.engine.spec) in self._verdicts

    def __call__(self, bench: Bench) -> Trial:
        """The trial of an engine, without its time."""
        spec = bench.engine.spec
        arithmetic = self._arithmetic(spec)
        try:
            if arithmetic not in self._verdicts:
                self._verdicts[arithmetic] = self._judge(bench)
        except EngineError as error:
            return Trial(spec, "failed", reason=str(error))
        verdict = self._verdicts[arithmetic]
        nodes = {f"nodes_{provider}": count for provider, count in bench.engine.nodes.items()}
        word = "accepted" if verdict.accepted else "rejected"
        return Trial(spec, word, None, {**verdict.figures, **nodes}, verdict.reason)

    def _arithmetic(self, spec: EngineSpec) -> str:
        batch = spec.batch if spec.dynamic_batching else 1  # a bench reads line by line
        return f"{self._graph(spec)} {replace(spec, streams=1, threads=1, batch=batch).to_dict()}"

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
        reader = Recogniser(engine, part.model, min_space=None)
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
        calls = (one_by_one, batches)
        found = race([timed(partial(pool.map, engine.run, lines)) for lines in calls])
    alone, batched = found.ms
    parity = all(_has_parity(engine, group) for group in groups)
    return BatchTrial(round(batched / alone, 3), parity, noise=found.noise)


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
