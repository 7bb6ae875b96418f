"""The accuracy gate: bounds, names, and that it rejects what reads other text."""

from __future__ import annotations

import pytest
from pipeline_yaml import minimal
from pydantic import ValidationError

from serving.config import parse_config
from serving.config.gate import Gate, named_gate
from serving.errors import ConfigError
from serving.plan.gate import judge_detection, judge_orientation, judge_recognition
from serving.types import Quad

LINES = [f"line number {i} of the page" for i in range(400)]


def box(x: int, y: int, width: int = 100) -> Quad:
    return (x, y), (x + width, y), (x + width, y + 20), (x, y + 20)


def test_equal_reading_passes_every_gate() -> None:
    for name in ("default", "strict", "exact"):
        assert judge_recognition(named_gate(name), LINES, LINES, LINES).accepted


def test_spaces_count_as_errors() -> None:
    read = [line.replace(" ", "") if i % 4 == 0 else line for i, line in enumerate(LINES)]
    verdict = judge_recognition(Gate(), LINES, LINES, read)
    assert not verdict.accepted
    assert verdict.figures["error_rate"] == pytest.approx(0.25 * 5 / len(LINES[100]), rel=0.1)


def test_the_bound_decides_not_the_figure() -> None:
    # One line in 100 wholly wrong: 1 % of errors, but the sample may be a lucky one.
    read = ["#" * len(line) if i % 100 == 0 else line for i, line in enumerate(LINES)]
    gate = Gate(error_rate=0.012, accuracy_loss=1)
    verdict = judge_recognition(gate, LINES, LINES, read)
    assert verdict.figures["error_rate"] < gate.error_rate < verdict.figures["error_rate_bound"]
    assert not verdict.accepted
    assert "over 1.20%" in verdict.reason


def test_reading_the_truth_better_than_the_reference_is_no_loss() -> None:
    reference = [line[:-1] for line in LINES]
    verdict = judge_recognition(Gate(error_rate=0.1), LINES, reference, LINES)
    assert verdict.accepted
    assert verdict.figures["accuracy_loss"] < 0


def test_exact_wants_equal_lines() -> None:
    read = [line + "x" if i < 4 else line for i, line in enumerate(LINES)]
    gate = Gate(equal_lines=0.995)
    assert not judge_recognition(gate, LINES, LINES, read).accepted


def test_detection_is_judged_by_h_mean() -> None:
    reference = [[box(0, 40 * row) for row in range(20)] for _ in range(16)]
    assert judge_detection(Gate(), reference, reference).accepted
    lost = [page[:-1] for page in reference]
    verdict = judge_detection(Gate(), reference, lost)
    assert not verdict.accepted
    assert verdict.figures["h_mean"] == pytest.approx(2 * 19 / 39)
    shifted = [[box(40, 40 * row) for row in range(20)] for _ in range(16)]
    assert judge_detection(Gate(), reference, shifted).figures["h_mean"] == 0
    assert not judge_detection(Gate(), [[]], [[]]).accepted


def test_orientation_is_judged_by_agreement() -> None:
    turned = [i % 2 == 0 for i in range(400)]
    assert judge_orientation(Gate(), turned, turned).accepted
    assert not judge_orientation(Gate(), turned, [not turn for turn in turned]).accepted


def test_the_yaml_names_a_gate_or_sets_its_bounds() -> None:
    assert parse_config(minimal(gate="exact"), source="x").gate.float32_only
    assert parse_config(minimal(gate={"h_mean": 0.9}), source="x").gate.h_mean == 0.9
    for wrong in ("lax", {"h_mean": 2}, {"hmean": 0.9}):
        with pytest.raises(ConfigError, match="x: gate"):
            parse_config(minimal(gate=wrong), source="x")
    with pytest.raises(ValidationError):
        Gate(error_rate=-1)


def test_single_characters_may_not_fall_unseen() -> None:
    """Nine of 170: 0.07 % of all characters."""
    truth = ["some sixty characters of a line that is read well by everybody"] * 200 + ["7"] * 170
    worse = truth[:-9] + ["\N{FULLWIDTH DIGIT SEVEN}"] * 9
    verdict = judge_recognition(Gate(), truth, truth, worse)
    assert not verdict.accepted
    assert verdict.reason == "5.3% of single characters lost"
    assert judge_recognition(Gate(), truth, truth, [*truth[:-1], "1"]).accepted
