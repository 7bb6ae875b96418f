"""Shadow reading: a share of the pages again, with another pipeline, and how far the two agree.

Nothing of a page is kept but counts: its pixels and its lines are in memory until the shadow has
read it, which it does only while the whole server has nothing else to do.
"""

from __future__ import annotations

import logging
import random
import threading
from collections import Counter, deque
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from serving.config.options import Options
from serving.http.metrics import Metrics
from serving.http.registry import ServedPipeline
from serving.scores import edit_distance
from serving.types import Image, Line

_LOG = logging.getLogger("serving.http")

_MAX_WAITING = 128 << 20
"""Bytes of pixels of the pages that wait: 20 pages of A4 at 144 dpi."""
_POLL = 0.1
"""Seconds between two looks whether the server is idle."""


@dataclass(frozen=True, slots=True)
class Agreement:
    """How far two readings of a page, the served one and the shadow's, agree."""

    lines: int
    """Of the served reading."""
    equal: int
    """Those of them whose whole text the shadow has too, wherever on the page."""
    edits: int
    """Between the whole texts, a line of text per line, in reading order, as `evaluate` counts."""
    characters: int
    """Of the longer text."""

    @classmethod
    def of(cls, served: Sequence[Line], shadow: Sequence[Line]) -> Agreement:
        """The agreement of two readings of one page."""
        texts = [[line.text for line in lines] for lines in (served, shadow)]
        equal = (Counter(texts[0]) & Counter(texts[1])).total()
        first, second = map("\n".join, texts)
        longer = max(len(first), len(second))
        return cls(len(served), equal, edit_distance(first, second), longer)


class _Waiting(NamedTuple):
    """A page that the shadow is to read."""

    name: str
    image: Image
    options: Options
    lines: Sequence[Line]


class Shadow:
    """The shadows of one worker's pipelines, and the thread in which they read."""

    def __init__(
        self,
        names: Collection[str],
        share: float,
        is_idle: Callable[[], bool],
        metrics: Metrics,
    ) -> None:
        """names: of the pipelines that have a shadow. share: of their pages, 0 to 1.

        is_idle: whether nobody else has anything to do for the server.
        """
        self._names = names
        self._share = share
        self._is_idle = is_idle
        self._metrics = metrics
        self._pipelines: dict[str, ServedPipeline] = {}
        self._waiting: deque[_Waiting] = deque()
        self._bytes = 0
        self._closed = False
        self._changed = threading.Condition()
        self._thread = threading.Thread(target=self._work, name="shadow", daemon=True)
        self._thread.start()

    def open(self, name: str, pipeline: ServedPipeline) -> None:
        """Read pages of the served pipeline `name` with this one from now on, and close it."""
        with self._changed:
            self._pipelines[name] = pipeline

    def offer(self, name: str, image: Image, options: Options, lines: Sequence[Line]) -> None:
        """Draw lots whether the shadow reads this page, too; never waits, never raises.

        lines: what the served pipeline `name` has read with these options. A page that would wait
        and for which there is no room, or no pipeline yet, is counted as dropped.
        """
        if name not in self._names or random.random() >= self._share:  # noqa: S311
            return
        with self._changed:
            has_room = self._bytes + image.nbytes <= _MAX_WAITING
            if name in self._pipelines and has_room and not self._closed:
                self._waiting.append(_Waiting(name, image, options, lines))
                self._bytes += image.nbytes
                self._changed.notify()
                return
        self._metrics.shadow_missed(name, "dropped")

    def close(self) -> None:
        """Finish the page in progress, drop those that wait, and close the pipelines."""
        with self._changed:
            self._closed = True
            self._changed.notify()
        self._thread.join()
        while self._waiting:
            self._metrics.shadow_missed(self._waiting.popleft().name, "dropped")
        for pipeline in self._pipelines.values():
            pipeline.close()

    def _work(self) -> None:
        while (page := self._next()) is not None:
            try:
                lines = self._pipelines[page.name].read(page.image, page.options).lines
                agreement = Agreement.of(page.lines, lines)
            except Exception:  # whatever it is, the page has been answered
                _LOG.error("the shadow of %s cannot read a page", page.name, exc_info=True)
                self._metrics.shadow_missed(page.name, "failed")
            else:
                self._metrics.shadow_read(page.name, agreement)
            del page

    def _next(self) -> _Waiting | None:
        """The next page, once the server is idle; None when closed."""
        with self._changed:
            while not self._closed:
                if self._waiting and self._is_idle():
                    page = self._waiting.popleft()
                    self._bytes -= page.image.nbytes
                    return page
                self._changed.wait(_POLL if self._waiting else None)
        return None
