from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from serving import scores
from serving.scores import Overlap
from serving.types import Quad


def square(x: int, y: int, side: int) -> Quad:
    return ((x, y), (x + side, y), (x + side, y + side), (x, y + side))


def test_tokens_are_bags_and_keep_case() -> None:
    overlap = scores.token_overlap(["Total 5.00 5.00", "Cash"], ["total 5.00", "Cash  Cash"])
    assert overlap == Overlap(common=2, truth=4, read=4)
    assert overlap.f1 == 0.5


def test_characters_leave_white_space_out() -> None:
    overlap = scores.character_overlap(["a b\u3000c", "浙D3"], ["abcc", "D3 浙"])
    assert overlap == Overlap(common=6, truth=6, read=7)
    assert overlap.precision == 6 / 7
    assert overlap.recall == 1


def test_averaging_is_micro() -> None:
    pages = [
        scores.token_overlap(["a b c d"], ["a b c d"]),
        scores.token_overlap(["x"], ["y"]),
    ]
    assert sum(pages, Overlap()).f1 == pytest.approx(8 / 10)


def test_empty_pages_are_no_error() -> None:
    assert scores.token_overlap([], []).f1 == 1
    assert scores.token_overlap(["a"], []).f1 == 0


@pytest.mark.parametrize(
    ("a", "b", "distance"),
    [("kitten", "sitting", 3), ("", "abc", 3), ("abc", "abc", 0), ("flaw", "lawn", 2),
     ("人民币五元", "人民币伍元整", 2)],
)  # fmt: skip
def test_edit_distance_by_hand(a: str, b: str, distance: int) -> None:
    assert scores.edit_distance(a, b) == distance


def slow_distance(a: str, b: str) -> int:
    row = list(range(len(b) + 1))
    for i, x in enumerate(a, 1):
        new = [i]
        for j, y in enumerate(b, 1):
            new.append(min(row[j] + 1, new[-1] + 1, row[j - 1] + (x != y)))
        row = new
    return row[-1]


few_letters = st.text(alphabet="ab 中", max_size=80)


@given(few_letters, few_letters)
def test_edit_distance_is_the_textbook_one(a: str, b: str) -> None:
    assert scores.edit_distance(a, b) == slow_distance(a, b)


@given(st.lists(few_letters), st.lists(few_letters))
def test_overlaps_are_symmetric_and_bounded(truth: list[str], read: list[str]) -> None:
    for overlap in (scores.token_overlap, scores.character_overlap):
        there, back = overlap(truth, read), overlap(read, truth)
        assert there.f1 == back.f1
        assert there.precision == back.recall
        assert 0 <= there.f1 <= 1
        assert overlap(truth, truth).f1 == 1


def test_characters_of_a_line_are_counted_with_its_errors() -> None:
    assert scores.character_errors("a b", "ab") == (1, 3)
    assert scores.character_errors("", "x") == (1, 0)


@given(*[st.integers(0, 40)] * 4, st.integers(1, 30), st.integers(1, 30))
def test_iou_of_rectangles(ax: int, ay: int, bx: int, by: int, a: int, b: int) -> None:
    wide = max(0, min(ax + a, bx + b) - max(ax, bx))
    high = max(0, min(ay + a, by + b) - max(ay, by))
    expected = wide * high / (a * a + b * b - wide * high)
    pair = [square(ax, ay, a)], [square(bx, by, b)]
    found = [(0, 0)] if expected else []
    assert scores.box_pairs(*pair, max(0, expected - 1e-6)) == found
    assert scores.box_pairs(*pair, expected + 1e-6) == []


def test_boxes_are_paired_one_to_one() -> None:
    truth = [square(0, 0, 100), square(200, 0, 100)]
    read = [square(0, 0, 100), square(2, 0, 100), square(240, 0, 100)]
    assert scores.box_overlap(truth, read, 0.7) == Overlap(common=1, truth=2, read=3)
    assert scores.box_overlap(truth, read, 0.4).f1 == pytest.approx(4 / 5)


def test_pairs_are_taken_in_order() -> None:
    # As by PaddleOCR's metric: the first read box fits the second truth box better, but is taken.
    truth = [square(4, 0, 100), square(0, 0, 100)]
    read = [square(0, 0, 100), square(8, 0, 100)]
    assert scores.box_pairs(truth, read, 0.8) == [(0, 0), (1, 1)]


def test_bootstrap_bounds_enclose_the_ratio() -> None:
    errors, lengths = [0.0] * 95 + [10.0] * 5, [20.0] * 100
    low = scores.bootstrap_bound(errors, lengths, "lower")
    high = scores.bootstrap_bound(errors, lengths, "upper")
    assert low < 50 / 2000 < high
    # Five of a hundred: a binomial with standard deviation 2.2, so about 0.012 to 0.045.
    assert low == pytest.approx(0.010, abs=0.003)
    assert high == pytest.approx(0.045, abs=0.005)
    assert scores.bootstrap_bound(errors, lengths, "upper") == high


def test_bootstrap_of_a_constant_is_the_constant() -> None:
    for side in ("lower", "upper"):
        assert scores.bootstrap_bound([1, 2, 3], [2, 4, 6], side) == pytest.approx(0.5)  # type: ignore[arg-type]


@pytest.mark.parametrize(("parts", "wholes"), [([], []), ([1.0], [0.0]), ([1.0], [1.0, 2.0])])
def test_bootstrap_needs_something_to_divide_by(parts: list[float], wholes: list[float]) -> None:
    with pytest.raises(ValueError, match="bootstrap"):
        scores.bootstrap_bound(parts, wholes, "upper")
