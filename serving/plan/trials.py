"""The trials of one model: every candidate opened, judged by the gate and timed."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any

from serving.config.gate import Gate
from serving.engines.base import EngineSpec
from serving.engines.factory import open_engine
from serving.errors import EngineError
from serving.parts import Part
from serving.plan.accuracy import Verdict
from serving.plan.bench import BENCHES, Bench
from serving.plan.calibration import Calibration
from serving.plan.measure import fastest, interleaved
from serving.plan.plan import Trial

REFERENCE = "onnxruntime"
"""Backend of the reference, in float32."""

Say = Callable[[str], None]
OpenGraph = Callable[[EngineSpec], Path]


def run_trials(
    part: Part,
    specs: list[EngineSpec],
    *,
    gate: Gate,
    calibration: Calibration,
    graph: OpenGraph,
    cores: int,
    say: Say,
) -> list[Trial]:
    """Judge and time candidates, given the simplest first; the fastest accepted is `chosen`.

    A candidate that does not open or run has failed; one that reads other text is rejected,
    and not timed.
    """
    bench_of = BENCHES[part.section]
    say(f"{part.model.name}: what float32 ONNX Runtime reads")
    reference = _answers(
        bench_of(part, open_engine(graph(_reference(cores)), _reference(cores)), calibration)
    )
    judged: dict[str, Verdict] = {}
    trials: list[Trial] = []
    with ExitStack() as stack:
        benches: list[Bench] = []
        for spec in specs:
            say(f"{part.model.name}: {spec}: does it read the same?")
            try:
                bench = bench_of(part, open_engine(graph(spec), spec), calibration)
                stack.callback(bench.close)
                arithmetic = f"{spec.backend} {spec.precision} {dict(spec.options)}"
                if arithmetic not in judged:
                    judged[arithmetic] = _judge(bench, gate, calibration, reference)
            except EngineError as error:
                trials.append(Trial(spec, "failed", reason=str(error)))
                continue
            verdict = judged[arithmetic]
            if not verdict.accepted:
                trials.append(
                    Trial(spec, "rejected", figures=verdict.figures, reason=verdict.reason)
                )
                continue
            trials.append(Trial(spec, "accepted", figures=verdict.figures))
            benches.append(bench)
        return _timed(trials, benches, part, say)


def _reference(cores: int) -> EngineSpec:
    return EngineSpec(REFERENCE, "float32", streams=cores, threads=cores)


def _answers(bench: Bench) -> list[Any]:
    try:
        return bench.answers()
    finally:
        bench.close()


def _judge(bench: Bench, gate: Gate, calibration: Calibration, reference: list[Any]) -> Verdict:
    if gate.float32_only and bench.engine.spec.precision != "float32":
        return Verdict(False, "the gate allows float32 arithmetic only")
    return bench.judge(gate, calibration, reference, bench.answers())


def _timed(trials: list[Trial], benches: list[Bench], part: Part, say: Say) -> list[Trial]:
    if not benches:
        raise EngineError(
            f"{part.model.name}: no candidate passes: "
            + "; ".join(f"{trial.spec}: {trial.reason}" for trial in trials)
        )
    say(f"{part.model.name}: timing {len(benches)} candidates")
    for bench in benches:
        bench.warm()
    rounds = interleaved([bench.work for bench in benches])
    winner = fastest(rounds)
    times = iter(enumerate(rounds))
    timed = []
    for trial in trials:
        if trial.verdict == "accepted":
            place, found = next(times)
            verdict = "chosen" if place == winner else "accepted"
            trial = replace(trial, ms=round(min(found), 3), verdict=verdict)
        timed.append(trial)
    return timed
