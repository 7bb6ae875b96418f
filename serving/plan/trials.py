"""The trials of one model: every candidate opened, judged by the gate and timed."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

from serving.config.gate import Gate
from serving.engines.base import Engine, EngineSpec
from serving.engines.factory import open_engine
from serving.errors import EngineError
from serving.parts import Part
from serving.plan.accuracy import Verdict
from serving.plan.bench import BENCHES, Bench
from serving.plan.calibration import Calibration
from serving.plan.measure import SLOWER, fastest, interleaved, milliseconds
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

    A candidate that does not open or run has failed. One that is clearly slower than a simpler
    accepted one cannot win and is not judged. One that reads other text is rejected.
    """
    bench_of = BENCHES[part.section]
    reference_spec = EngineSpec(REFERENCE, "float32", streams=cores, threads=cores)
    say(f"{part.model.name}: what float32 ONNX Runtime reads")
    with closing(bench_of(part, _open(graph, reference_spec), calibration)) as oracle:
        reference = oracle.answers()
    judged: dict[str, Verdict] = {}
    trials: list[Trial] = []
    racing: dict[int, Bench] = {}  # by place in `trials`
    quickest: tuple[float, EngineSpec] | None = None
    try:
        for spec in specs:
            say(f"{part.model.name}: trying {spec}")
            try:
                bench = bench_of(part, _open(graph, spec), calibration)
                bench.warm()
                spent = milliseconds(bench.work)
                if quickest is not None and spent > SLOWER * quickest[0]:
                    bench.close()
                    reason = f"not judged: slower than {quickest[1]}"
                    trials.append(Trial(spec, "slower", round(spent, 3), reason=reason))
                    continue
                arithmetic = f"{spec.backend} {spec.precision} {dict(spec.options)}"
                if arithmetic not in judged:
                    judged[arithmetic] = _judge(bench, gate, calibration, reference)
            except EngineError as error:
                trials.append(Trial(spec, "failed", reason=str(error)))
                continue
            verdict = judged[arithmetic]
            if not verdict.accepted:
                bench.close()
                trials.append(
                    Trial(spec, "rejected", round(spent, 3), verdict.figures, verdict.reason)
                )
                continue
            racing[len(trials)] = bench
            trials.append(Trial(spec, "accepted", figures=verdict.figures))
            if quickest is None or spent < quickest[0]:
                quickest = spent, spec
        return _timed(trials, racing, part, say)
    finally:
        for raced in racing.values():
            raced.close()


def _open(graph: OpenGraph, spec: EngineSpec) -> Engine:
    return open_engine(graph(spec), spec)


def _judge(bench: Bench, gate: Gate, calibration: Calibration, reference: list[Any]) -> Verdict:
    if gate.float32_only and bench.engine.spec.precision != "float32":
        return Verdict(False, "the gate allows float32 arithmetic only")
    return bench.judge(gate, calibration, reference, bench.answers())


def _timed(trials: list[Trial], racing: Mapping[int, Bench], part: Part, say: Say) -> list[Trial]:
    """The trials with the times of those that race, and the winner marked."""
    if not racing:
        raise EngineError(
            f"{part.model.name}: no candidate passes: "
            + "; ".join(f"{trial.spec}: {trial.reason}" for trial in trials)
        )
    say(f"{part.model.name}: timing {len(racing)} candidates")
    rounds = interleaved([bench.work for bench in racing.values()])
    winner = list(racing)[fastest(rounds)]
    for place, found in zip(racing, rounds, strict=True):
        verdict = "chosen" if place == winner else "accepted"
        trials[place] = replace(trials[place], ms=round(min(found), 3), verdict=verdict)
    return trials
