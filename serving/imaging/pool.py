"""A few helper processes, shared by many threads."""

from __future__ import annotations

import os
import threading
import weakref
from collections.abc import Iterator
from contextlib import contextmanager

from serving.errors import NotReady, TimedOut
from serving.imaging.process import HelperProcess

_WAIT_SECONDS = 60.0


class Pool:
    """At most `size` helpers, started when needed and reused. Safe under threads."""

    def __init__(self, size: int, memory_bytes: int) -> None:
        self._memory_bytes = memory_bytes
        self._turn = threading.Condition()
        self._free = size
        """How many may be taken: those idle and those not started yet."""
        self._idle: list[HelperProcess] = []
        self._alive: set[HelperProcess] = set()
        self._closed = False
        self._end = weakref.finalize(self, _end_all, self._alive, os.getpid())

    def close(self) -> None:
        """End all helpers. Who works with one or waits for one gets NotReady."""
        with self._turn:
            self._closed = True
            self._turn.notify_all()
            for helper in self._alive:
                helper.kill()
            while self._idle:
                self._discard(self._idle.pop())

    @contextmanager
    def helper(self, document: int) -> Iterator[HelperProcess]:
        """A helper for the `with` block, if possible the one that has `document` open.

        Leaving the block with an exception ends the helper: it may be in the middle of an
        answer. Raises TimedOut where none gets free in time, NotReady, EngineError.
        """
        self._wait()
        helper: HelperProcess | None = None
        keep = False
        try:
            helper = self._choose(document) or self._start()
            yield helper
            keep = not helper.spent
        except Exception:
            if self._closed:
                raise NotReady("the decoder is closed: the server is stopping") from None
            raise
        finally:
            self._give_back(helper, keep=keep)

    def _wait(self) -> None:
        with self._turn:
            if not self._turn.wait_for(lambda: self._closed or self._free > 0, _WAIT_SECONDS):
                raise TimedOut(
                    f"no decoding helper got free within {_WAIT_SECONDS:g} s: try again later"
                )
            if self._closed:
                raise NotReady("the decoder is closed: the server is stopping")
            self._free -= 1

    def _choose(self, document: int) -> HelperProcess | None:
        def rank(helper: HelperProcess) -> tuple[bool, bool]:
            return helper.document != document, helper.document is not None

        with self._turn:
            while self._idle:
                helper = min(self._idle, key=rank)  # among equals the one idle for longest
                self._idle.remove(helper)
                if helper.alive():
                    return helper
                self._discard(helper)
        return None

    def _start(self) -> HelperProcess:
        helper = HelperProcess(self._memory_bytes)
        with self._turn:
            self._alive.add(helper)
            if self._closed:
                self._discard(helper)
                raise NotReady("the decoder is closed: the server is stopping")
        return helper

    def _give_back(self, helper: HelperProcess | None, *, keep: bool) -> None:
        with self._turn:
            self._free += 1
            self._turn.notify()
            if helper is None:
                return
            if keep and not self._closed:
                self._idle.append(helper)
            else:
                self._discard(helper)

    def _discard(self, helper: HelperProcess) -> None:
        self._alive.discard(helper)
        helper.end()


def _end_all(helpers: set[HelperProcess], owner: int) -> None:
    # A forked child inherits the set, but the helpers are not its own.
    if os.getpid() == owner:
        while helpers:
            helpers.pop().end()
