"""CTC best path decoding."""

from __future__ import annotations

import pytest

from serving.ocr.ctc import character_steps, letter_steps, mean_score, text_at

CHARACTERS = ("", "a", "b", "fi", " ")


@pytest.mark.parametrize(
    ("path", "text"),
    [
        ([0, 1, 1, 0, 1, 2, 2, 0], "aab"),
        ([1, 4, 2], "a b"),
        ([0, 0], ""),
        ([2], "b"),
        ([1, 5, 1], "aa"),  # a step without a number is blank
    ],
)
def test_repeats_and_blanks_are_dropped(path: list[int], text: str) -> None:
    assert text_at(character_steps(path, len(CHARACTERS)), path, CHARACTERS) == text


def test_the_score_is_the_mean_of_the_first_step_of_each_character() -> None:
    path, scores = [1, 1, 0, 2], [0.5, 0.9, 1.0, 0.7]
    assert mean_score(character_steps(path, len(CHARACTERS)), scores) == pytest.approx(0.6)
    assert mean_score([], scores) == 0.0


def test_every_letter_has_the_step_of_its_entry() -> None:
    path = [0, 3, 3, 1]
    at = character_steps(path, len(CHARACTERS))
    assert text_at(at, path, CHARACTERS) == "fia"
    assert letter_steps(at, path, CHARACTERS) == [1, 1, 3]
