"""Progress of long work: a line that moves on a terminal, plain lines elsewhere."""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Protocol, TextIO

Text = Callable[[], str]
"""Called each time that the text is shown."""


class Progress(Protocol):
    """Where messages go, and the step that runs now."""

    def message(self, line: str) -> None:
        """Show one line."""

    def step(self, text: Text) -> AbstractContextManager[None]:
        """Show `text` and the seconds so far, until the step is done."""


class Quiet:
    """Shows nothing."""

    def message(self, line: str) -> None:
        pass

    @contextmanager
    def step(self, text: Text) -> Iterator[None]:
        yield


class Lines:
    """Plain lines: one at the start of a step, one every `interval` seconds while it runs."""

    def __init__(self, stream: TextIO, interval: float = 10.0) -> None:
        self._stream, self._interval = stream, interval

    def message(self, line: str) -> None:
        print(line, file=self._stream, flush=True)

    @contextmanager
    def step(self, text: Text) -> Iterator[None]:
        self.message(text())
        done = threading.Event()
        start = time.monotonic()

        def repeat() -> None:
            while not done.wait(self._interval):
                self.message(_with_seconds(text, start))

        thread = threading.Thread(target=repeat, daemon=True)
        thread.start()
        try:
            yield
        finally:
            done.set()
            thread.join()


class Terminal:
    """A line with a spinner, drawn by rich."""

    def __init__(self, stream: TextIO) -> None:
        from rich.console import Console

        self._console = Console(file=stream, highlight=False, markup=False)

    def message(self, line: str) -> None:
        self._console.print(line, soft_wrap=True)

    @contextmanager
    def step(self, text: Text) -> Iterator[None]:
        from rich.live import Live
        from rich.spinner import Spinner
        from rich.text import Text as RichText

        start = time.monotonic()
        spinner = Spinner("dots")

        def draw() -> Spinner:
            spinner.update(text=RichText(_with_seconds(text, start)))
            return spinner

        with Live(
            get_renderable=draw,
            console=self._console,
            transient=True,
            redirect_stdout=sys.stdout.isatty(),  # else it would not go where it is sent
        ):
            yield


def _with_seconds(text: Text, start: float) -> str:
    return f"{text()} ({time.monotonic() - start:.0f} s so far)"


def progress_on(stream: TextIO | None = None) -> Progress:
    """The one that fits a stream (default: stderr)."""
    stream = stream or sys.stderr
    return Terminal(stream) if stream.isatty() else Lines(stream)


class Download:
    """The step of one running download; `done` is set as bytes arrive."""

    def __init__(self, label: str) -> None:
        self._label = label
        self.done = 0
        self.total: int | None = None
        """None while it is not known."""

    def __call__(self) -> str:
        if not self.done:
            return f"downloading {self._label}"
        of = f" of {self.total / 1e6:.1f}" if self.total else ""
        return f"downloading {self._label}: {self.done / 1e6:.1f}{of} MB"
