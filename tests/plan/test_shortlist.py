"""Which engines of a model are measured end to end."""

from __future__ import annotations

import pytest

from serving.engines.base import EngineSpec
from serving.plan.build import _shortlist
from serving.plan.plan import Trial


def trial(spec: EngineSpec, ms: float, verdict: str = "accepted") -> Trial:
    return Trial(spec, verdict, ms)


BEST = EngineSpec("openvino", "int8", 2, 2)
SAME = EngineSpec("openvino", "int8", 1, 2)
OTHER = EngineSpec("onnxruntime", "float32", 2, 2)
TRIALS = [
    trial(EngineSpec("openvino", "float32", 2, 2), 104.0),
    trial(EngineSpec("onnxruntime", "float32", 1, 2), 109.0),
    trial(OTHER, 106.0),
    trial(EngineSpec("paddle", "float32", 1, 2), 101.0, "rejected"),
    trial(BEST, 100.0, "chosen"),
    trial(SAME, 105.0),
]


@pytest.mark.parametrize("section", ["TextDetection", "TextRecognition"])
def test_other_streams_and_the_best_of_another_backend_are_measured(section: str) -> None:
    assert _shortlist(section, TRIALS) == [BEST, SAME, OTHER]


def test_clearly_slower_engines_are_not() -> None:
    slower = [TRIALS[4], trial(SAME, 111.0), trial(OTHER, 111.0)]
    assert _shortlist("TextRecognition", slower) == [BEST]


def test_a_classifier_has_one() -> None:
    assert _shortlist("TextLineOrientation", TRIALS) == [BEST]
