"""The trials of one model: every candidate opened, judged by the gate and timed."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import closing
from dataclasses import replace
from typing import Any

from serving.config.gate import Gate
from serving.engines.base import Engine, EngineSpec
from serving.engines.factory import open_fused
from serving.errors import EngineError
from serving.parts import Part
from serving.plan.accuracy import Verdict
from serving.plan.bench import BENCHES, Bench
from serving.plan.calibration import Calibration
from serving.plan.graphs import GraphOf
from serving.plan.measure import SLOWER, fastest, interleaved, milliseconds
from serving.plan.plan import Trial

REFERENCE = "onnxruntime"
"""Backend of the reference, in float32."""

Say = Callable[[str], None]


def run_trials(
    part: Part,
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


def _open(graph: GraphOf, spec: EngineSpec, part: Part) -> Engine:
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
        return f"{self._graph(spec)} {replace(spec, streams=1, threads=1).describe()}"

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


def _timed(trials: list[Trial], racing: Mapping[int, Bench], part: Part, say: Say) -> list[Trial]:
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
