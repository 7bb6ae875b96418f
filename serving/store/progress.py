"""Saying how a download goes: a bar on a terminal, plain lines elsewhere."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Protocol, TextIO

_SECONDS_BETWEEN_LINES = 5.0


class Bar(Protocol):
    """One running download."""

    def update(self, done: int, total: int | None) -> None:
        """`done` bytes of `total` (None: unknown) have arrived."""


class Progress(Protocol):
    """Where the store says what it does."""

    def say(self, line: str) -> None:
        """One line of news."""

    def bar(self, label: str) -> AbstractContextManager[Bar]:
        """Follow one download."""


class Quiet:
    """Says nothing."""

    def say(self, line: str) -> None:
        pass

    def update(self, done: int, total: int | None) -> None:
        pass

    @contextmanager
    def bar(self, label: str) -> Iterator[Bar]:
        yield self


class Lines:
    """Plain lines: one at the start of a download, one every few seconds."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def say(self, line: str) -> None:
        print(line, file=self._stream, flush=True)

    @contextmanager
    def bar(self, label: str) -> Iterator[Bar]:
        self.say(f"downloading {label}")
        yield _LineBar(self, label)


class _LineBar:
    def __init__(self, lines: Lines, label: str) -> None:
        self._lines, self._label = lines, label
        self._next = time.monotonic() + _SECONDS_BETWEEN_LINES

    def update(self, done: int, total: int | None) -> None:
        if not done or time.monotonic() < self._next:
            return
        self._next = time.monotonic() + _SECONDS_BETWEEN_LINES
        of = f" of {total / 1e6:.1f}" if total else ""
        self._lines.say(f"downloading {self._label}: {done / 1e6:.1f}{of} MB")


class Terminal:
    """A moving bar, drawn by rich."""

    def __init__(self, stream: TextIO) -> None:
        from rich.console import Console

        self._console = Console(file=stream, highlight=False, markup=False)

    def say(self, line: str) -> None:
        self._console.print(line, soft_wrap=True)

    @contextmanager
    def bar(self, label: str) -> Iterator[Bar]:
        from rich import progress as rich

        columns = (
            rich.TextColumn("{task.description}", markup=False),
            rich.BarColumn(),
            rich.DownloadColumn(),
            rich.TimeElapsedColumn(),
        )
        with rich.Progress(*columns, console=self._console, transient=True) as drawn:
            task = drawn.add_task(label, total=None)

            class Drawn:
                def update(self, done: int, total: int | None) -> None:
                    drawn.update(task, completed=done, total=total)

            yield Drawn()


def progress_on(stream: TextIO | None = None) -> Progress:
    """The fitting one for a stream (default: stderr)."""
    stream = stream or sys.stderr
    return Terminal(stream) if stream.isatty() else Lines(stream)
