"""What a long build says: which step of how many, how long is left, and that it is alive."""

from __future__ import annotations

import io
import os
import pty
import select
import time

from serving.plan.build import Eta
from serving.progress import Lines, Terminal


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def test_each_step_says_its_number_and_the_time_left_at_the_pace_so_far() -> None:
    out = io.StringIO()
    clock = Clock()
    eta = Eta(Lines(out), 2, clock)
    eta.begin("rendering")
    clock.now += 45
    eta.begin("measuring")
    assert eta.text("measuring") == "[2/2] measuring, about 15 s left"
    clock.now += 60
    assert eta.text("measuring") == "[2/2] measuring, about 30 s left"
    eta.begin("one more than was expected")
    eta.end()
    assert out.getvalue().splitlines() == [
        "[1/2] rendering, about 10 s left",
        "[2/2] measuring, about 15 s left",
        "[3/3] one more than was expected, about 25 s left",
    ]


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
