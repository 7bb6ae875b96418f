"""A server under mixed sizes for a while: does its memory grow? And what do big inputs cost?"""

from __future__ import annotations

import datetime
import http.client
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, closing
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from benchmarks.chart import figure
from benchmarks.mixed import Image, Mixed, jpeg, originals, pdf, scaled, sheet
from benchmarks.serve_servers import Ours
from serving.errors import EngineError
from serving.machine import cpu_name, usable_cores

_EVERY = 0.5
"""Seconds between two looks at the memory."""
_SMALL = (1500, 1000)
_ENLARGED = 4
"""Times by which each side of the small page is enlarged: 4000 x 6000 pixels."""
_PDF_PAGES = 100
GROWTH = 0.03
"""By how much the last quarter's memory may be above the second's."""


@dataclass(frozen=True, slots=True)
class Big:
    """One input: what the server took for it, and the most memory that it held meanwhile."""

    name: str
    megapixels: float
    pages: int
    ms: float
    peak_mb: float

    @property
    def ms_a_megapixel(self) -> float:
        """Grows no faster than pixels, when it is not above a small page's."""
        return self.ms / self.megapixels


@dataclass(frozen=True, slots=True)
class Soak:
    """What was found. memory: (seconds since the mixed sizes began, MiB of the whole server)."""

    facts: dict[str, str]
    big: tuple[Big, ...]
    pages: int
    memory: tuple[tuple[float, float], ...] = field(repr=False)

    def quarter(self, number: int) -> float:
        """Median memory in MiB of a quarter of the time, 1 to 4."""
        seconds, mb = zip(*self.memory, strict=True)
        end = seconds[-1]
        evenly = np.linspace(end * (number - 1) / 4, end * number / 4, 1001)
        return float(np.median(np.interp(evenly, seconds, mb)))

    @property
    def growth(self) -> float:
        """Of the last quarter over the second: 0.01 is one percent more."""
        return self.quarter(4) / self.quarter(2) - 1

    @property
    def peak_mb(self) -> float:
        """Of all that was seen, big inputs included."""
        return max([mb for _, mb in self.memory] + [big.peak_mb for big in self.big])


class _Memory:
    """Looks at a server's memory while it works."""

    def __init__(self, server: Ours) -> None:
        self.seen: list[tuple[float, float]] = []
        self._server = server
        self._start = time.monotonic()
        self._end = threading.Event()
        self._thread = threading.Thread(target=self._look, daemon=True)
        self._thread.start()

    def _look(self) -> None:
        while True:
            self.seen.append((time.monotonic() - self._start, self._server.memory()))
            if self._end.wait(_EVERY):
                return

    def close(self) -> None:
        self._end.set()
        self._thread.join()


def soak(
    pipeline: Path,
    models: Path,
    minutes: float,
    *,
    enlarged: int = _ENLARGED,
    pdf_pages: int = _PDF_PAGES,
    tell: Callable[[str], None] = lambda _: None,
) -> Soak:
    """A server of its own: big inputs first, then mixed sizes from as many callers as cores.

    Raises EngineError when the server does not start, or does not answer with 200.
    """
    figure(1, 1)  # a chart that cannot be drawn is told before the work, not after
    callers = usable_cores()
    pages = originals()
    with ExitStack() as stack:
        server = stack.enter_context(closing(Ours(pipeline, models, Path(sys.executable))))
        inputs = _bigs(pages[0], enlarged, pdf_pages)
        found = [_big(server, *item, tell) for item in inputs]
        memory = stack.enter_context(closing(_Memory(server)))
        files = [Mixed(pages, seed) for seed in range(callers)]
        read = _mixed(server, files, minutes * 60, tell)
        memory.close()
    facts = {
        "machine": f"{cpu_name()}, {usable_cores()} cores",
        "date": datetime.datetime.now(datetime.UTC).date().isoformat(),
        "pipeline": str(pipeline),
        "minutes": f"{minutes:g}, {callers} callers, 200 pixels to 4000 x 6000",
        "memory": "of all the server's processes, shared pages counted once",
    }
    return Soak(facts, tuple(found), read, tuple(memory.seen))


def _bigs(page: Image, enlarged: int, count: int) -> Iterator[tuple[str, float, int, bytes]]:
    """(name, megapixels, pages, file), small ones first."""
    height, width = _SMALL
    mega = height * width / 1e6
    small = scaled(page, height, width)
    large, size = (height * enlarged, width * enlarged), f"{width * enlarged} x {height * enlarged}"
    yield f"a page of {width} x {height}", mega, 1, jpeg(small)
    yield f"that page at {size}", mega * enlarged**2, 1, jpeg(scaled(page, *large))
    yield f"{enlarged**2} of it on {size}", mega * enlarged**2, 1, jpeg(sheet(small, enlarged))
    yield "a PDF of that page", mega, 1, pdf(small, 1)
    yield f"a PDF of it {count} times", mega * count, count, pdf(small, count)


def _big(
    server: Ours,
    name: str,
    megapixels: float,
    pages: int,
    file: bytes,
    tell: Callable[[str], None],
) -> Big:
    tell(name)
    if pages == 1:
        _post(server, file)  # the first sight of its shapes
    memory = _Memory(server)
    start = time.perf_counter()
    _post(server, file)
    ms = (time.perf_counter() - start) * 1e3
    memory.close()
    return Big(name, megapixels, pages, ms, max(mb for _, mb in memory.seen))


def _mixed(
    server: Ours, callers: Sequence[Mixed], seconds: float, tell: Callable[[str], None]
) -> int:
    """Each caller sends its own files, one after the other; returns how many were read."""
    start, counts = time.monotonic(), [0] * len(callers)
    errors: list[EngineError] = []

    def call(place: int) -> None:
        for file in callers[place]:
            try:
                _post(server, file)
            except EngineError as error:
                errors.append(error)
            counts[place] += 1
            passed = time.monotonic() - start
            tell(f"{sum(counts)} pages in {passed / 60:.1f} of {seconds / 60:g} minutes")
            if passed > seconds or errors:
                return

    threads = [threading.Thread(target=call, args=(place,)) for place in range(len(callers))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if errors:
        raise errors[0]
    return sum(counts)


def _post(server: Ours, file: bytes) -> None:
    connection = http.client.HTTPConnection(*server.address, timeout=1200)
    try:
        kind = "application/pdf" if file.startswith(b"%PDF") else "image/jpeg"
        connection.request("POST", "/ocr/v1/accurate", file, {"Content-Type": kind})
        response = connection.getresponse()
        body = response.read()
    except OSError as error:
        raise EngineError(f"soak: the server does not answer: {error}") from error
    finally:
        connection.close()
    if response.status != 200:
        raise EngineError(f"soak: the server answered {response.status}: {body[:300].decode()}")
