"""Which engines together read most pages, without letting a single request wait."""

from __future__ import annotations

import pytest

from serving.plan.calibration import calibration_set
from serving.plan.end_to_end import best_combination, small_picture
from serving.plan.timing import Race


def race(*ms: float, noise: float = 0.0) -> Race:
    return Race(winner=0, ms=ms, noise=noise)


@pytest.mark.parametrize(
    ("pages", "small", "concurrent", "best"),
    [
        (race(100, 103), race(40, 44), (250, 230), 1),
        (race(100, 103), race(40, 49), (250, 230), 0),  # pictures wait a fifth longer
        (race(100, 125), race(40, 40), (250, 230), 0),  # pages wait a fourth longer
        (race(100, 103), race(40, 49, noise=0.05), (250, 230), 1),  # if that was not noise
        (race(100, 103), race(40, 41), (250, 240), 0),  # the gain is under 5 %
        (race(103, 100), race(46, 40), (240, 243), 1),  # as many pages, and pictures wait less
        (race(103, 100), race(41, 40), (240, 243), 0),  # by less than 5 %
        (race(100, 150), race(60, 40), (250, 230), 1),  # 1.5 times either way
        (race(100, 160), race(60, 40), (250, 230), 0),
    ],
)
def test_the_most_pages_a_second_within_the_latency_bounds(
    pages: Race, small: Race, concurrent: tuple[float, float], best: int
) -> None:
    assert best_combination([pages, small], concurrent) == best


def test_the_small_picture_has_lines_and_room() -> None:
    picture = small_picture(calibration_set())
    assert picture.shape == (560, 560, 3)
    assert 0.02 < (picture < 128).any(axis=2).mean() < 0.3
