"""Saying how long work goes: something that moves on a terminal, plain lines elsewhere."""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Protocol, TextIO

_SECONDS_BETWEEN_LINES = 5.0
_SECONDS_BETWEEN_BEATS = 10.0

Text = Callable[[], str]
"""Asked for anew each time it is shown."""


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

    def step(self, text: Text) -> AbstractContextManager[None]:
        """Show what is being done, and that it goes on, until it is done."""


class Quiet:
    """Says nothing."""

    def say(self, line: str) -> None:
        pass

    def update(self, done: int, total: int | None) -> None:
        pass

    @contextmanager
    def bar(self, label: str) -> Iterator[Bar]:
        yield self

    @contextmanager
    def step(self, text: Text) -> Iterator[None]:
        yield


class Lines:
    """Plain lines: one at the start of a download or a step, one every few seconds."""

    def __init__(self, stream: TextIO, beat: float = _SECONDS_BETWEEN_BEATS) -> None:
        self._stream, self._beat = stream, beat

    def say(self, line: str) -> None:
        print(line, file=self._stream, flush=True)

    @contextmanager
    def bar(self, label: str) -> Iterator[Bar]:
        self.say(f"downloading {label}")
        yield _LineBar(self, label)

    @contextmanager
    def step(self, text: Text) -> Iterator[None]:
        self.say(text())
        done = threading.Event()
        beating = threading.Thread(target=self._go_on, args=(text, done), daemon=True)
        beating.start()
        try:
            yield
        finally:
            done.set()
            beating.join()

    def _go_on(self, text: Text, done: threading.Event) -> None:
        start = time.monotonic()
        while not done.wait(self._beat):
            self.say(f"{text()} ({time.monotonic() - start:.0f} s so far)")


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

    @contextmanager
    def step(self, text: Text) -> Iterator[None]:
        from rich.live import Live
        from rich.spinner import Spinner

        start = time.monotonic()
        spinner = Spinner("dots")

        def drawn() -> Spinner:
            spinner.update(text=f"{text()} ({time.monotonic() - start:.0f} s so far)")
            return spinner

        with Live(get_renderable=drawn, console=self._console, transient=True):
            yield


def progress_on(stream: TextIO | None = None) -> Progress:
    """The fitting one for a stream (default: stderr)."""
    stream = stream or sys.stderr
    return Terminal(stream) if stream.isatty() else Lines(stream)
