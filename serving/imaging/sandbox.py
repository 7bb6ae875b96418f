"""Helper processes in which documents are opened and drawn, under limits, and can be killed.

Why plain child processes and not multiprocessing's forkserver: a
forkserver's children import the caller's `__main__` again (a script without a main guard, or
Gunicorn's loader), its server process and resource tracker outlive a killed worker, and its
shared memory has names in /dev/shm (64 MB in a container) that leak with whoever dies. Here a
helper is a fresh interpreter that imports `serving.imaging.helper` alone, is started by
exec and so never forks a threaded process, is ended by the kernel when its server dies, and
gets memory that has no name (memfd) and goes when its last descriptor does.

A helper is held for one step (open, or draw one page) and not for a document: many documents
take turns on few helpers, a caller may open several before it reads the first, and one who
stops reading midway holds nothing. A helper keeps the last document open; one that comes back
to another helper is sent again.
"""

from __future__ import annotations

import itertools
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np

from serving.errors import TimedOut, Undecodable
from serving.imaging.pixels import Array
from serving.imaging.pool import Pool
from serving.imaging.process import HelperDied, HelperProcess
from serving.imaging.sniff import Data, Kind, title

Size = tuple[int, int]


@dataclass(frozen=True, slots=True)
class Blob:
    """A document's bytes, and how to draw it. The bytes must not change while it is in use."""

    kind: Kind
    data: Data
    dpi: int
    number: int
    """Its own, among all blobs of a sandbox."""


class Sandbox:
    """Opens and draws documents in at most `helpers` processes. Safe under threads.

    A step may take `page_seconds` of processor time (then Undecodable: the file's fault), 2 s
    more than twice that by the clock (then TimedOut: the machine's), and `memory_bytes` on top
    of what an idle helper has. Belongs to the process that made it: create it after the fork.
    """

    def __init__(
        self, helpers: int = 2, *, page_seconds: float = 10.0, memory_bytes: int = 2 << 30
    ) -> None:
        self._page_seconds = page_seconds
        self._clock_seconds = 2 * page_seconds + 2  # the kernel counts whole seconds
        self._pool = Pool(helpers, memory_bytes)
        self._numbers = itertools.count(1)

    def close(self) -> None:
        """End all helpers, those at work included: their callers get NotReady."""
        self._pool.close()

    def blob(self, kind: Kind, data: Data, dpi: int) -> Blob:
        """What `sizes` and `draw` take. Nothing is held or sent yet."""
        return Blob(kind, data, dpi, next(self._numbers))

    def sizes(self, blob: Blob, most: int) -> tuple[int, list[Size]]:
        """The number of pages, and (width, height) of each; none if there are over `most`.

        Raises Undecodable, TimedOut, NotReady.
        """
        answer = self._step(blob, {"page": None, "most": most})
        return answer["count"], [(width, height) for width, height in answer["sizes"]]

    def draw(self, blob: Blob, page: int, size: Size, *, last: bool = False) -> Array:
        """The page, (H, W, 3) BGR, in memory of its own. `last`: no other page will follow.

        Raises Undecodable, TimedOut, NotReady.
        """
        width, height = size
        image = np.empty((height, width, 3), np.uint8)
        with _memory() as pixels:
            os.ftruncate(pixels, image.nbytes)
            request = {"page": page, "width": width, "height": height, "last": last}
            self._step(blob, request, pixels)
            _fill(image, pixels)
        return image

    def _step(self, blob: Blob, request: dict[str, Any], *descriptors: int) -> dict[str, Any]:
        what = title(blob.kind, request["page"])
        try:
            with self._pool.helper(blob.number) as helper:
                answer = self._ask(helper, blob, request, descriptors)
        except HelperDied as error:
            raise Undecodable(f"{what}: {error}") from None
        except TimeoutError:
            raise TimedOut(
                f"{what}: not decoded within {self._clock_seconds:g} s; "
                "the machine has too much to do: try again later"
            ) from None
        if "error" in answer:
            raise Undecodable(answer["error"])
        return answer

    def _ask(
        self,
        helper: HelperProcess,
        blob: Blob,
        request: dict[str, Any],
        descriptors: tuple[int, ...],
    ) -> dict[str, Any]:
        known = helper.document == blob.number
        request |= {
            "id": blob.number,
            "kind": blob.kind,
            "dpi": blob.dpi,
            "data": not known,
            "seconds": self._page_seconds,
        }
        deadline = time.monotonic() + self._clock_seconds
        if known:
            return helper.ask(request, descriptors, deadline)
        with _memory() as document:
            _write(document, blob.data)
            helper.open(blob.number)
            return helper.ask(request, (document, *descriptors), deadline)


@contextmanager
def _memory() -> Iterator[int]:
    descriptor = os.memfd_create("ocr-hpi", os.MFD_CLOEXEC)
    try:
        yield descriptor
    finally:
        os.close(descriptor)


def _write(descriptor: int, data: Data) -> None:
    rest = memoryview(data).cast("B")
    while rest:
        rest = rest[os.write(descriptor, rest) :]


def _fill(image: Array, descriptor: int) -> None:
    """Copy out instead of mapping: a page then holds no descriptor, and no one can alter it."""
    rest, position = image.data.cast("B"), 0
    while rest:
        count = os.preadv(descriptor, [rest], position)
        if count == 0:
            raise Undecodable("the decoding helper took back the page's memory")
        rest, position = rest[count:], position + count
