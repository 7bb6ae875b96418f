"""What a long build says: which step of how many, how long is left, and that it is alive."""

from __future__ import annotations

import io
import os
import pty
import select
import time

import pytest

from serving.models.progress import Lines, Quiet, Terminal
from serving.plan.build import Eta, expected_seconds, in_words


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def test_the_time_left_is_corrected_by_what_the_steps_take() -> None:
    clock = Clock()
    pace = Eta(Quiet(), [10, 10, 20, 60], clock)
    pace.begin("first")
    assert pace.seconds_left() == pytest.approx(100)
    clock.now += 10
    assert pace.seconds_left() == pytest.approx(90)
    pace.begin("second")
    assert pace.seconds_left() == pytest.approx(90)
    clock.now += 50  # five times as long as expected, and not done yet
    slow = pace.seconds_left()
    assert slow > 150
    clock.now += 10
    assert pace.seconds_left() > slow
    pace.begin("third")
    clock.now += 20
    pace.begin("fourth")
    before = pace.seconds_left()
    clock.now += 5
    assert pace.seconds_left() == pytest.approx(before - 5)
    pace.end()


def test_each_step_says_its_number_and_the_time_left() -> None:
    out = io.StringIO()
    clock = Clock()
    pace = Eta(Lines(out), [20, 70], clock)
    pace.begin("rendering")
    clock.now += 20
    pace.begin("measuring")
    pace.begin("one more than was expected")
    pace.end()
    assert out.getvalue().splitlines() == [
        "[1/2] rendering, about 1 min 30 s left",
        "[2/2] measuring, about 1 min 10 s left",
        "[3/3] one more than was expected, about 5 s left",
    ]


@pytest.mark.parametrize(
    ("seconds", "words"),
    [(0, "5 s"), (44, "45 s"), (60, "1 min"), (81, "1 min 20 s"), (1234, "20 min")],
)
def test_a_guess_is_said_as_exactly_as_it_is_one(seconds: float, words: str) -> None:
    assert in_words(seconds) == words


def test_a_slow_step_stays_alive_in_plain_lines() -> None:
    out = io.StringIO()
    with Lines(out, interval=0.01).step(lambda: "trying"):
        deadline = time.monotonic() + 10
        while out.getvalue().count("\n") < 3 and time.monotonic() < deadline:
            time.sleep(0.01)
    said = out.getvalue().splitlines()
    assert said[0] == "trying"
    assert said[1] == "trying (0 s so far)"
    assert len(said) >= 3


def test_a_slow_step_ticks_on_a_terminal() -> None:
    ours, theirs = pty.openpty()
    seen = b""
    with os.fdopen(theirs, "w") as stream, Terminal(stream).step(lambda: "trying"):
        deadline = time.monotonic() + 10
        while b"(1 s so far)" not in seen and time.monotonic() < deadline:
            if select.select([ours], [], [], 0.1)[0]:
                seen += os.read(ours, 4096)
    os.close(ours)
    assert b"trying (0 s so far)" in seen
    assert b"trying (1 s so far)" in seen


def test_steps_of_models_whose_trials_are_known_are_not_counted() -> None:
    specs = {"TextDetection": [], "TextRecognition": []}
    whole = expected_seconds([], specs, set())
    assert len(expected_seconds([], specs, {"TextRecognition"})) == len(whole) - 2
    assert len(expected_seconds([True], specs, set())) == len(whole) + 1
    assert len(expected_seconds([], specs, set(), workers=3)) == len(whole) + 3
