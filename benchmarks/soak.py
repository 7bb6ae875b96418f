"""Soak test: what large inputs cost a server, and whether mixed sizes make its memory grow."""

from __future__ import annotations

import io
import random
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, closing
from dataclasses import dataclass, field
from pathlib import Path

import cv2
import numpy as np
from PIL import Image as Pillow

from benchmarks import corpus
from benchmarks.servers import MemorySampler, OurServer
from serving.errors import EngineError
from serving.machine import usable_cores
from serving.types import Image

MAX_GROWTH = 0.03
"""How far the memory of the last quarter may be above the second quarter's."""
_SMALL = (1500, 1000)
"""Height and width of the small page that large inputs are compared with."""
_SCALE = 4
"""The side of a large page over the small one's: 6000 x 4000 pixels."""
_PDF_PAGES = 100


@dataclass(frozen=True, slots=True)
class LargeInput:
    """One input: how long the server took, and the most memory that it held meanwhile."""

    name: str
    megapixels: float
    pages: int
    ms: float
    peak_mb: float

    @property
    def ms_per_megapixel(self) -> float:
        """Cost grows no faster than pixels if this is no higher than a small page's."""
        return self.ms / self.megapixels


@dataclass(frozen=True, slots=True)
class Soak:
    """What was measured. memory: (seconds since the mixed sizes began, MiB of the server)."""

    large: tuple[LargeInput, ...]
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
    def is_stable(self) -> bool:
        """Whether memory grew by no more than MAX_GROWTH."""
        return self.growth <= MAX_GROWTH

    @property
    def peak_mb(self) -> float:
        """Of all samples, large inputs included."""
        return max([mb for _, mb in self.memory] + [item.peak_mb for item in self.large])


def soak(
    pipeline: Path,
    models: Path,
    minutes: float,
    *,
    scale: int = _SCALE,
    pdf_pages: int = _PDF_PAGES,
    progress: Callable[[str], None] = lambda _: None,
) -> Soak:
    """Start a server and send it large inputs, then mixed sizes from as many clients as cores.

    Raises EngineError when the server does not start, or answers anything but 200.
    """
    originals = [sample.image for sample in corpus.pages(count=6)]
    with ExitStack() as stack:
        server = stack.enter_context(closing(OurServer({"accurate": pipeline}, models)))
        large = []
        for name, megapixels, pages, file in _large_inputs(originals[0], scale, pdf_pages):
            progress(name)
            if pages == 1:
                server.read(file, "")  # the first time, its shapes are new to the engines
            memory = MemorySampler(server)
            start = time.perf_counter()
            server.read(file, "")
            ms = (time.perf_counter() - start) * 1e3
            memory.close()
            peak = max(mb for _, mb in memory.samples)
            large.append(LargeInput(name, megapixels, pages, ms, peak))
        memory = stack.enter_context(closing(MemorySampler(server)))
        clients = [mixed_pages(originals, seed) for seed in range(usable_cores())]
        count = _send(server, clients, minutes * 60, progress)
        memory.close()
    return Soak(tuple(large), count, tuple(memory.samples))


def _large_inputs(page: Image, scale: int, count: int) -> Iterator[tuple[str, float, int, bytes]]:
    """(name, megapixels, pages, file), small ones first."""
    height, width = _SMALL
    mega = height * width / 1e6
    small = resize(page, height, width)
    large, size = (height * scale, width * scale), f"{width * scale} x {height * scale}"
    yield f"a page of {width} x {height}", mega, 1, jpeg(small)
    yield f"that page at {size}", mega * scale**2, 1, jpeg(resize(page, *large))
    yield f"{scale**2} of it on {size}", mega * scale**2, 1, jpeg(tile(small, scale))
    yield "a PDF of that page", mega, 1, pdf(small, 1)
    yield f"a PDF of it {count} times", mega * count, count, pdf(small, count)


def _send(
    server: OurServer,
    clients: Sequence[Iterator[bytes]],
    seconds: float,
    progress: Callable[[str], None],
) -> int:
    """Each client sends its own files, one after the other; returns how many were read."""
    start, counts = time.monotonic(), [0] * len(clients)
    errors: list[EngineError] = []

    def send(index: int) -> None:
        for file in clients[index]:
            try:
                server.read(file, "")
            except EngineError as error:
                errors.append(error)
            counts[index] += 1
            passed = time.monotonic() - start
            progress(f"{sum(counts)} pages in {passed / 60:.1f} of {seconds / 60:g} minutes")
            if passed > seconds or errors:
                return

    threads = [threading.Thread(target=send, args=(index,)) for index in range(len(clients))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if errors:
        raise errors[0]
    return sum(counts)


_MIN_SIDE, _MAX_SIDE, _MAX_SHORT_SIDE = 200, 6000, 4000


def mixed_pages(originals: Sequence[Image], seed: int = 0) -> Iterator[bytes]:
    """Endless JPEG files of all sizes, 200 pixels to 4000 x 6000, with few lines to many.

    Each is a page, a sheet of copies of a page, or a cut-out of one. The same seed gives the same
    files.
    """
    draw = random.Random(seed)  # noqa: S311  repeatable, not secret
    while True:
        # Uniform in the logarithm of the longer side.
        longer = round(_MIN_SIDE * (_MAX_SIDE / _MIN_SIDE) ** draw.random())
        shorter = min(_MAX_SHORT_SIDE, max(_MIN_SIDE, round(longer * draw.uniform(0.4, 1.0))))
        upright = draw.random() < 0.7
        height, width = (longer, shorter) if upright else (shorter, longer)
        page = draw.choice(originals)
        if longer < 700:
            top = draw.randrange(max(1, page.shape[0] - height))
            left = draw.randrange(max(1, page.shape[1] - width))
            page = page[top : top + height, left : left + width]
        elif draw.random() < 0.3:
            page = tile(page, draw.choice((2, 3, 4)))
        yield jpeg(resize(page, height, width))


def tile(page: Image, side: int) -> Image:
    """side x side copies of a page on one sheet."""
    return np.tile(page, (side, side, 1))


def resize(page: Image, height: int, width: int) -> Image:
    """A page at another size."""
    return np.asarray(cv2.resize(page, (width, height), interpolation=cv2.INTER_AREA), np.uint8)


def jpeg(page: Image) -> bytes:
    """A page as a JPEG file."""
    _, data = cv2.imencode(".jpg", page, (cv2.IMWRITE_JPEG_QUALITY, 85))
    return data.tobytes()


def pdf(page: Image, count: int) -> bytes:
    """A PDF of `count` copies of a page, at 144 dpi."""
    sheets = [Pillow.fromarray(np.ascontiguousarray(page[:, :, ::-1]))] * count
    out = io.BytesIO()
    sheets[0].save(out, "PDF", save_all=True, append_images=sheets[1:], resolution=144)
    return out.getvalue()
