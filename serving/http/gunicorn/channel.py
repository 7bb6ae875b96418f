"""What workers tell the master: that they are ready, or why they never will be.

What the master tells all workers, those that run already as well.
"""

from __future__ import annotations

import json
import mmap
import os
import struct
import time
import zlib
from dataclasses import dataclass
from typing import Any

_SIZE = 16 * 1024
_HEAD = struct.Struct("<II")


class SharedState:
    """One JSON object in memory that the master writes and all workers read.

    Make it before the fork. A checksum tells a reader that it came in the middle of a write.
    """

    def __init__(self) -> None:
        self._memory = mmap.mmap(-1, _SIZE)
        self.write({})

    def write(self, told: dict[str, Any]) -> None:
        """In the master: say this from now on."""
        data = json.dumps(told).encode()
        self._memory[: _HEAD.size + len(data)] = _HEAD.pack(len(data), zlib.crc32(data)) + data

    def read(self) -> dict[str, Any]:
        """What was said last."""
        while True:
            length, checksum = _HEAD.unpack_from(self._memory)
            data = self._memory[_HEAD.size : _HEAD.size + length]
            if zlib.crc32(data) == checksum:
                told: dict[str, Any] = json.loads(data)
                return told
            time.sleep(0.001)


_MOST = 4000
"""Bytes of a report. A write up to PIPE_BUF (4096) does not mix with those of other workers."""


@dataclass(frozen=True, slots=True)
class WorkerEvent:
    """One worker's word."""

    pid: int
    error: str | None = None
    """Why it cannot load; None when it is ready."""
    loaded: str = ""
    """Tells the models, plans and engines that it runs."""


class WorkerEvents:
    """A pipe from the workers to the master. Make it before the fork."""

    def __init__(self) -> None:
        self._read, self._write = os.pipe()
        os.set_blocking(self._read, False)
        self._rest = b""

    def ready(self, loaded: str) -> None:
        """In a worker: every pipeline has answered."""
        self._send(None, loaded)

    def failed(self, error: str) -> None:
        """In a worker: it cannot load, and why."""
        self._send(error[:600], "")

    def _send(self, error: str | None, loaded: str) -> None:
        told = json.dumps([os.getpid(), error, loaded], ensure_ascii=False).encode()
        assert len(told) < _MOST
        os.write(self._write, told + b"\n")

    def receive(self) -> list[WorkerEvent]:
        """In the master: the reports that have come since; never waits."""
        try:
            while data := os.read(self._read, 65536):
                self._rest += data
        except BlockingIOError:
            pass
        *whole, self._rest = self._rest.split(b"\n")
        return [WorkerEvent(*json.loads(line)) for line in whole]
