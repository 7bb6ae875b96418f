"""How far a build is: which step of how many, and about how long is left."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack

from serving.store import Progress

_TRUST = 10.0
"""Seconds of work after which what was measured counts as much as what was expected."""


class Pace:
    """Follows steps whose seconds are guessed beforehand, and mends the guess by what they take.

    One thread begins and ends; any may ask for the text.
    """

    def __init__(
        self,
        progress: Progress,
        expected: Sequence[float],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """expected: seconds of each step on some machine; their ratios matter."""
        self._progress, self._clock = progress, clock
        self._expected = list(expected)
        self._step = 0
        self._start = self._since = clock()
        self._shown = ExitStack()

    def begin(self, what: str) -> None:
        """The step before is done, and this one begins; it is shown while it lasts."""
        self._shown.close()
        self._step += 1
        self._since = self._clock()
        self._shown.enter_context(self._progress.step(lambda: self.text(what)))

    def end(self) -> None:
        """Nothing is being done any more."""
        self._shown.close()

    def text(self, what: str) -> str:
        """`[3/20] what, about 1 min 20 s left`."""
        count = max(self._step, len(self._expected))
        return f"[{self._step}/{count}] {what}, about {in_words(self.seconds_left())} left"

    def seconds_left(self) -> float:
        """What was expected, times how much slower than expected it went so far."""
        before = sum(self._expected[: self._step - 1])
        here = sum(self._expected[self._step - 1 : self._step])
        after = sum(self._expected[self._step :])
        past, spent = self._since - self._start, self._clock() - self._since
        slowness = max(
            (past + _TRUST) / (before + _TRUST),
            (past + spent + _TRUST) / (before + here + _TRUST),  # this step is not done yet
        )
        return max(here * slowness - spent, 0.0) + after * slowness


def in_words(seconds: float) -> str:
    """`45 s`, `1 min 20 s`, `12 min`: as exact as a guess is."""
    minutes, rest = divmod(max(5, round(seconds / 5) * 5), 60)
    if minutes >= 10:
        return f"{minutes} min"
    return " ".join([*([f"{minutes} min"] if minutes else []), *([f"{rest} s"] if rest else [])])
