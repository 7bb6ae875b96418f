"""Helper processes in which documents are opened and drawn, under limits, and can be killed.

Why plain child processes and not multiprocessing's forkserver: a
forkserver's children import the caller's `__main__` again (a script without a main guard, or
Gunicorn's loader), its server process and resource tracker outlive a killed worker, and its
shared memory has names in /dev/shm (64 MB in a container) that leak with whoever dies. Here a
helper is a fresh interpreter that imports `serving.imaging.sandbox.worker` alone, is started by
exec and so never forks a threaded process, is ended by the kernel when its server dies, and
gets memory that has no name (memfd) and goes when its last descriptor does.

A helper is held for one step (open, or draw one page) and not for a document: many documents
take turns on few helpers, a caller may open several before it reads the first, and one who
stops reading midway holds nothing. A helper keeps the last document open; one that comes back
to another helper is sent again.

One helper process as the server sees it: start it, ask it, end it.

A few helper processes, shared by many threads.
"""

from __future__ import annotations

import itertools
import os
import signal
import socket
import subprocess
import sys
import threading
import time
import weakref
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np

from serving.errors import EngineError, NotReady, TimedOut, Undecodable
from serving.imaging.formats import Data, Kind, title
from serving.imaging.pillow import Array
from serving.imaging.sandbox import protocol

# The caller's own search path, so that the helper finds the same `serving` however it was
# installed; the interpreter's start-up has run by then, import hooks of editable installs too.
_BOOTSTRAP = (
    "import sys; sys.path[:] = sys.argv[3:]; "
    "from serving.imaging.sandbox.worker import main; main()"
)
_START_SECONDS = 60.0
_DOCUMENTS = 200
"""After so many a helper is replaced, with whatever memory its decoders leaked."""


class HelperDied(Exception):
    """The helper ended instead of answering. The message says what that means."""


class HelperProcess:
    """A running helper. Raises EngineError where none can be started.

    Not safe under threads: `Pool` hands it to one at a time.
    """

    def __init__(self, memory_bytes: int) -> None:
        self.document: int | None = None
        """Number of the document it has open."""
        self.spent = False
        """It has served its time: end it."""
        self._documents = 0
        self._channel, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            with theirs:
                self._process = _spawn(theirs.fileno(), memory_bytes)
        except OSError as error:
            self._channel.close()
            raise EngineError(f"a decoding helper cannot be started: {error}") from error
        try:
            protocol.receive(self._channel, deadline=time.monotonic() + _START_SECONDS)
        except (OSError, EOFError):
            self.end()
            raise EngineError(
                f"a decoding helper did not start (exit status {self._process.returncode}); its "
                "own message is on stderr: check that Pillow, numpy and pypdfium2 import"
            ) from None

    def open(self, number: int) -> None:
        """Note which document the next request brings."""
        self.document = number
        self._documents += 1

    def ask(
        self, request: dict[str, Any], descriptors: Sequence[int], deadline: float
    ) -> dict[str, Any]:
        """Its answer. Raises HelperDied, and TimeoutError after `deadline` (monotonic)."""
        try:
            self._channel.settimeout(max(deadline - time.monotonic(), 0.001))
            protocol.send(self._channel, request, descriptors)
            answer, _ = protocol.receive(self._channel, deadline=deadline)
        except TimeoutError:
            raise
        except (OSError, EOFError, ValueError):
            raise HelperDied(self._epitaph(request["seconds"])) from None
        if request.get("last") or "error" in answer:
            self.document = None
        self.spent = self._documents >= _DOCUMENTS or bool(answer.get("spent"))
        return answer

    def alive(self) -> bool:
        return self._process.poll() is None

    def kill(self) -> None:
        """From any thread; the one that uses it must `end` it still."""
        self._process.kill()

    def end(self) -> None:
        """Kill it and leave no zombie and no descriptor. May be called twice."""
        self._process.kill()
        self._process.wait()
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._channel.close()

    def _epitaph(self, seconds: float) -> str:
        self._process.kill()
        status = self._process.wait()
        if status == -signal.SIGXCPU:
            return f"decoding takes more than {seconds:g} s of processor time"
        if status == -signal.SIGKILL:
            return "its decoder was killed, most likely because the machine ran out of memory"
        if status < 0:
            return f"it crashed its decoder ({signal.Signals(-status).name})"
        return f"its decoder ended with exit status {status}"


def _spawn(channel: int, memory_bytes: int) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        [sys.executable, "-c", _BOOTSTRAP, str(channel), str(memory_bytes), *sys.path],
        stdin=subprocess.PIPE,  # its lifeline: see helper.py
        stdout=subprocess.DEVNULL,
        pass_fds=(channel,),
        # OpenBLAS reserves address space for every core, and computes nothing here.
        env={**os.environ, "OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1"},
        start_new_session=True,  # the terminal's Ctrl-C is the server's to answer
    )


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
