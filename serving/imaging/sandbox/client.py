"""Decoder processes, which open and decode documents under limits and can be killed.

They are plain child processes and not multiprocessing's forkserver, whose children import the
caller's `__main__` again (a script without a main guard, or Gunicorn's loader), whose server
process and resource tracker outlive a killed worker, and whose shared memory has names in /dev/shm
(64 MB in a container) that leak when a process dies. Here a decoder process is a fresh interpreter
that imports `serving.imaging.sandbox.worker` alone. It is started by exec, so no threaded process
forks, the kernel ends it when its server dies, and its memory is unnamed (memfd) and freed with
the last descriptor.

A process is held for one request (open a document, or decode one page), not for a document: many
documents share few processes, a caller may open several before reading the first, and one who
stops reading midway holds nothing. A process keeps its last document open; if another process
gets the document's next request, the document is sent again.
"""

from __future__ import annotations

import errno
import itertools
import json
import os
import select
import signal
import socket
import subprocess
import sys
import threading
import time
import weakref
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from io import BufferedRandom
from pathlib import Path
from typing import Any

import numpy as np

from serving.errors import EngineError, NotReady, TimedOut, Undecodable
from serving.imaging.formats import Data, Kind, PageRanges, display_name
from serving.imaging.sandbox import protocol
from serving.types import Dpi, Image, Line, Word

Size = tuple[int, int]


@dataclass(frozen=True, slots=True)
class PageInfo:
    """What is known of a page before it is decoded."""

    index: int
    """In its document, from 0."""
    size: Size
    """(width, height) in pixels, upright."""
    dpi: Dpi | None
    """As the file says; of a PDF, as it is rendered."""


@dataclass(frozen=True, slots=True)
class Document:
    """A document's bytes, which must not change while it is in use, and how to render it."""

    kind: Kind
    data: Data
    dpi: int
    number: int = field(default_factory=itertools.count(1).__next__)
    """Unique in this process."""


_MIN_ROOM = 64 << 20
_MAX_GROWTH = 10
"""A searchable PDF has at most so many bytes, and so many times those of its documents more."""


class Sandbox:
    """Opens and decodes documents in at most `processes` processes. Thread-safe.

    A request may take `page_seconds` of processor time (then Undecodable: the file's fault), 2 s
    more than twice that by the clock (then TimedOut: the machine is overloaded), and `memory_bytes`
    more than an idle process. A process that is stopped or hangs is replaced within seconds. A
    sandbox belongs to the process that made it: create it after the fork.

    Every request raises Undecodable, TimedOut, NotReady.
    """

    def __init__(self, processes: int, *, page_seconds: float, memory_bytes: int) -> None:
        self._page_seconds = page_seconds
        self._pool = _ProcessPool(processes, memory_bytes)

    def close(self) -> None:
        """End all processes, busy ones too: their callers get NotReady."""
        self._pool.close()

    def pages(
        self, document: Document, ranges: PageRanges, max_pages: int
    ) -> tuple[int, list[PageInfo]]:
        """How many pages the document has, and those selected; at most one over `max_pages`.

        Counting may stop behind the last one selected.
        """
        request = {"page": None, "ranges": ranges.ranges, "max_pages": max_pages}
        answer = self._request(document, request)
        return answer["count"], [
            PageInfo(index, (width, height), (dpi[0], dpi[1]) if dpi else None)
            for index, width, height, dpi in answer["pages"]
        ]

    def decode(self, document: Document, page: int, size: Size, *, last: bool = False) -> Image:
        """The page, (H, W, 3) BGR. `last`: no other page will be requested."""
        width, height = size
        image = np.empty((height, width, 3), np.uint8)
        with _shared_memory() as pixels:
            pixels.truncate(image.nbytes)
            request = {"page": page, "width": width, "height": height, "last": last}
            self._request(document, request, pixels.fileno())
            # Copied and not mapped: the page then holds no descriptor, and nothing can alter it.
            if pixels.readinto(image.data.cast("B")) != image.nbytes:
                raise Undecodable("the decoder process truncated the page's memory")
        return image

    def own_text(self, document: Document, page: int, size: Size) -> tuple[Line, ...] | None:
        """The text that a PDF has of its page, with words; None where the page must be read."""
        request = {"page": page, "width": size[0], "height": size[1], "own_text": True}
        lines = self._request(document, request)["lines"]
        return None if lines is None else tuple(map(_line, lines))

    def searchable(
        self, documents: Sequence[tuple[Kind, Data]], texts: Sequence[list[protocol.PageText]]
    ) -> bytes:
        """One PDF of all documents, with the texts of their pages on them.

        It may take a second of processor time for each page more.
        """
        layers = json.dumps(texts).encode()
        content = b"".join([layers, *(bytes(data) for _, data in documents)])
        document = Document("pdf", content, 0)
        parts = [(kind, len(data)) for kind, data in documents]
        request = {"page": None, "last": True, "searchable": parts, "layers": len(layers)}
        seconds = self._page_seconds + sum(map(len, texts))
        with _shared_memory() as made:
            made.truncate(_MIN_ROOM + _MAX_GROWTH * len(content))
            answer = self._request(document, request, made.fileno(), seconds=seconds)
            return made.read(answer["bytes"])

    def check_searchable(self, data: Data) -> None:
        """Raise Undecodable for a PDF that `searchable` refuses."""
        request = {"page": None, "last": True, "searchable": [("pdf", len(data))], "layers": 0}
        self._request(Document("pdf", data, 0), request)

    def _request(
        self,
        document: Document,
        request: dict[str, Any],
        *descriptors: int,
        seconds: float | None = None,
    ) -> dict[str, Any]:
        what = display_name(document.kind, request["page"])
        seconds = seconds or self._page_seconds
        clock = 2 * seconds + 2  # the kernel counts whole seconds
        request |= {"kind": document.kind, "dpi": document.dpi, "seconds": seconds}
        try:
            try:
                answer = self._attempt(document, request, descriptors, clock)
            except _ProcessStalled:
                answer = self._attempt(document, request, descriptors, clock)
        except _ProcessDied as error:
            raise Undecodable(f"{what}: {error}") from None
        except TimeoutError:
            raise TimedOut(
                f"{what}: not decoded within {clock:g} s; "
                "the machine is overloaded: try again later"
            ) from None
        if "error" in answer:
            raise Undecodable(answer["error"])
        return answer

    def _attempt(
        self, document: Document, request: dict[str, Any], descriptors: Sequence[int], clock: float
    ) -> dict[str, Any]:
        number = document.number
        with self._pool.process(number) as process, _shared_memory() as data:
            request |= {"document": number, "has_data": process.document != number}
            if request["has_data"]:
                data.write(document.data)
                data.flush()
                descriptors = data.fileno(), *descriptors
            return process.request(request, descriptors, time.monotonic() + clock)


def _line(own: protocol.OwnLine) -> Line:
    """With a word for each space, so that the words' texts concatenate to the line's."""

    def line(text: str, left: int, top: int, right: int, bottom: int) -> Line:
        quad = (left, top), (right, top), (right, bottom), (left, bottom)
        return Line(text, 1.0, quad, own["turn"])

    words: list[Word] = []
    for text, bounds in own["words"]:
        box = line(text, *bounds).box
        if words:
            before = words[-1].box
            words.append(Word(" ", (before[1], box[0], box[3], before[2]), 1.0))
        words.append(Word(text, box, 1.0))
    lefts, tops, rights, bottoms = zip(*(bounds for _, bounds in own["words"]), strict=True)
    text = "".join(word.text for word in words)
    whole = line(text, min(lefts), min(tops), max(rights), max(bottoms))
    return replace(whole, words=tuple(words))


def _shared_memory() -> BufferedRandom:
    """Raises NotReady."""
    try:
        return os.fdopen(os.memfd_create("ocr-hpi", os.MFD_CLOEXEC), "w+b")
    except OSError as error:
        raise _exhausted(error) from error


def _exhausted(error: OSError) -> NotReady:
    """The file is not at fault, and a later request may succeed."""
    return NotReady(f"nothing can be decoded at the moment ({error.strerror}): try again later")


_WAIT_SECONDS = 60.0


class _ProcessPool:
    """At most `size` decoder processes, started when needed and reused. Thread-safe."""

    def __init__(self, size: int, memory_bytes: int) -> None:
        self._memory_bytes = memory_bytes
        self._condition = threading.Condition()
        self._available = size
        """Idle processes and those not started yet."""
        self._idle: list[_DecoderProcess] = []
        self._alive: set[_DecoderProcess] = set()
        self._closed = False
        self._finalizer = weakref.finalize(self, _end_all, self._alive, os.getpid())

    def close(self) -> None:
        """End all processes. Callers that use one or wait for one get NotReady."""
        with self._condition:
            self._closed = True
            self._condition.notify_all()
            for process in self._alive:
                process.kill()
            while self._idle:
                self._end(self._idle.pop())

    @contextmanager
    def process(self, document: int) -> Iterator[_DecoderProcess]:
        """A process for the `with` block, if possible the one that has `document` open.

        Leaving the block with an exception ends the process: it may be in the middle of an
        answer. Raises TimedOut if none becomes available in time, NotReady, EngineError.
        """
        process = self._acquire(document)
        keep = False
        try:
            process = process or self._start()
            yield process
            keep = not process.retired
        except Exception:
            if self._closed:
                raise _closed() from None
            raise
        finally:
            self._release(process, keep=keep)

    def _acquire(self, document: int) -> _DecoderProcess | None:
        """An idle process, or None for the right to start one."""

        def rank(process: _DecoderProcess) -> tuple[bool, bool]:
            return process.document != document, process.document is not None

        def ready() -> bool:
            return self._closed or self._available > 0

        with self._condition:
            if not self._condition.wait_for(ready, _WAIT_SECONDS):
                raise TimedOut(
                    f"no decoder process became available within {_WAIT_SECONDS:g} s: "
                    "try again later"
                )
            if self._closed:
                raise _closed()
            self._available -= 1
            while self._idle:
                process = min(self._idle, key=rank)  # among equals the one idle for longest
                self._idle.remove(process)
                if process.is_ready():
                    return process
                self._end(process)
        return None

    def _start(self) -> _DecoderProcess:
        process = _DecoderProcess(self._memory_bytes)
        with self._condition:
            self._alive.add(process)
            if self._closed:
                self._end(process)
                raise _closed()
        return process

    def _release(self, process: _DecoderProcess | None, *, keep: bool) -> None:
        with self._condition:
            self._available += 1
            self._condition.notify()
            if process is None:
                return
            if keep and not self._closed:
                self._idle.append(process)
            else:
                self._end(process)

    def _end(self, process: _DecoderProcess) -> None:
        self._alive.discard(process)
        process.end()


def _closed() -> NotReady:
    return NotReady("the decoder is closed: the server is stopping")


def _end_all(processes: set[_DecoderProcess], owner: int) -> None:
    # A forked child inherits the set, but the processes belong to its parent.
    if os.getpid() == owner:
        while processes:
            processes.pop().end()


class _ProcessDied(Exception):
    """The process ended instead of answering. The message says why."""


class _ProcessStalled(TimeoutError):
    """The process is stopped, or it sleeps instead of working."""


# The caller's search path, so that the process finds the same `serving` however it was installed;
# the interpreter's start-up has run by then, import hooks of editable installs too.
_BOOTSTRAP = (
    "import sys; sys.path[:] = sys.argv[3:]; "
    "from serving.imaging.sandbox.worker import main; main()"
)
_START_SECONDS = 60.0
_CHECK_SECONDS = 0.5
_MAX_IDLE_CHECKS = 8
"""A process that owes an answer, sleeps, and used no processor time over so many checks hangs."""
_MAX_DOCUMENTS = 200
"""After so many a process is replaced, with whatever memory its decoders leaked."""


_EXHAUSTED = (errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.EAGAIN)
"""The process or the machine has none left: of files, memory, processes."""


class _DecoderProcess:
    """A running decoder process. Raises EngineError if it cannot be started, and NotReady if it
    cannot be at the moment.

    Not thread-safe: the pool gives it to one thread at a time.
    """

    def __init__(self, memory_bytes: int) -> None:
        self.document: int | None = None
        """Number of the document it has open."""
        self.retired = False
        """It must not be used again."""
        self._documents = 0
        with ExitStack() as stack:
            try:
                self._channel, peer = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
                stack.callback(self._channel.close)
                with peer:
                    self._process = _spawn(peer.fileno(), memory_bytes)
                stack.callback(self._kill)
                # Kept open: a process that may open no more files can still look after this one.
                self._stat = Path(f"/proc/{self._process.pid}/stat").open("rb", buffering=0)  # noqa: SIM115
            except OSError as error:
                if error.errno in _EXHAUSTED:
                    raise _exhausted(error) from error
                raise EngineError(f"a decoder process cannot be started: {error}") from error
            stack.pop_all()
        try:
            protocol.receive(self._channel, deadline=time.monotonic() + _START_SECONDS)
        except (OSError, EOFError):
            self.end()
            raise EngineError(
                f"a decoder process did not start (exit status {self._process.returncode}); its "
                "own message is on stderr: check that Pillow, numpy and pypdfium2 import"
            ) from None

    def request(
        self, message: dict[str, Any], descriptors: Sequence[int], deadline: float
    ) -> dict[str, Any]:
        """Its answer. Raises _ProcessDied, _ProcessStalled, TimeoutError after `deadline`."""
        if message["has_data"]:
            self.document = message["document"]
            self._documents += 1
        try:
            self._channel.settimeout(max(deadline - time.monotonic(), 0.001))
            protocol.send(self._channel, message, descriptors)
            self._await_answer(deadline)
            answer, unwanted = protocol.receive(self._channel, deadline=deadline)
            for descriptor in unwanted:  # of a process that a file has taken over
                os.close(descriptor)
        except TimeoutError:
            raise
        except (OSError, EOFError, ValueError):
            raise _ProcessDied(self._cause_of_death(message["seconds"])) from None
        if message.get("last") or "error" in answer:
            self.document = None
        self.retired = self._documents >= _MAX_DOCUMENTS or bool(answer.get("retire"))
        return answer

    def is_ready(self) -> bool:
        return self._process.poll() is None and self._progress()[0] != "T"

    def _await_answer(self, deadline: float) -> None:
        poll = select.poll()
        poll.register(self._channel, select.POLLIN)
        idle, last = 0, -1
        while not poll.poll(_CHECK_SECONDS * 1000):
            state, used = self._progress()
            idle = idle + 1 if state in "St" and used == last else 0
            last = used
            if state == "T" or idle >= _MAX_IDLE_CHECKS:
                raise _ProcessStalled
            if time.monotonic() > deadline:
                raise TimeoutError

    def _progress(self) -> tuple[str, int]:
        """State (T: stopped, t: traced, S: sleeping) and processor time used, as in proc(5)."""
        fields = os.pread(self._stat.fileno(), 4096, 0).rpartition(b")")[2].split()
        return fields[0].decode(), int(fields[11]) + int(fields[12])

    def kill(self) -> None:
        """From any thread; the thread that uses it must still `end` it."""
        self._process.kill()

    def end(self) -> None:
        """Kill it and leave no zombie and no descriptor. May be called twice."""
        self._kill()
        self._channel.close()
        self._stat.close()

    def _kill(self) -> None:
        self._process.kill()
        self._process.wait()
        assert self._process.stdin is not None
        self._process.stdin.close()

    def _cause_of_death(self, seconds: float) -> str:
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
        stdin=subprocess.PIPE,  # never written to: see `_confine` in worker.py
        stdout=subprocess.DEVNULL,
        pass_fds=(channel,),
        # OpenBLAS reserves address space for every core, and computes nothing here.
        env={**os.environ, "OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1"},
        start_new_session=True,  # Ctrl-C in the terminal is for the server to handle
    )
