"""CTC best path decoding."""

from __future__ import annotations

import numpy as np
import pytest

from serving.stages.ctc import decode

CHARACTERS = ("", "a", "b", " ")


@pytest.mark.parametrize(
    ("path", "text"),
    [
        ([0, 1, 1, 0, 1, 2, 2, 0], "aab"),
        ([1, 3, 2], "a b"),
        ([0, 0], ""),
        ([2], "b"),
    ],
)
def test_repeats_and_blanks_are_dropped(path: list[int], text: str) -> None:
    assert decode(np.array(path), np.ones(len(path), np.float32), CHARACTERS)[0] == text


def test_a_step_without_a_number_is_blank() -> None:
    path, score = np.array([1, 4, 2]), np.array([0.5, np.nan, 0.7], np.float32)
    assert decode(path, score, CHARACTERS) == ("ab", pytest.approx(0.6))


def test_the_score_is_the_mean_of_the_first_step_of_each_character() -> None:
    path, score = np.array([1, 1, 0, 2]), np.array([0.5, 0.9, 1.0, 0.7], np.float32)
    assert decode(path, score, CHARACTERS) == ("ab", pytest.approx(0.6))
    assert decode(np.array([0, 0]), score[:2], CHARACTERS) == ("", 0.0)
