"""How master and workers communicate: events from each worker, state for all of them."""

from __future__ import annotations

import hashlib
import json
import mmap
import os
import struct
import time
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

_STATE_BYTES = 16 * 1024
_HEADER = struct.Struct("<II")  # length and checksum
_EVENT_BYTES = 4000
"""Limit of an event: writes of up to PIPE_BUF (4096) bytes of several processes do not mix."""


class SharedState:
    """A JSON object in memory that the master writes and all workers read.

    Create it before the fork. A checksum detects a read in the middle of a write.
    """

    def __init__(self) -> None:
        self._memory = mmap.mmap(-1, _STATE_BYTES)
        self.write({})

    def write(self, state: dict[str, Any]) -> None:
        """In the master: replace the state."""
        data = json.dumps(state).encode()
        header = _HEADER.pack(len(data), zlib.crc32(data))
        self._memory[: _HEADER.size + len(data)] = header + data

    def read(self) -> dict[str, Any]:
        """The latest state."""
        while True:
            length, checksum = _HEADER.unpack_from(self._memory)
            data = self._memory[_HEADER.size : _HEADER.size + length]
            if zlib.crc32(data) == checksum:
                state: dict[str, Any] = json.loads(data)
                return state
            time.sleep(0.001)


@dataclass(frozen=True, slots=True)
class WorkerEvent:
    """A worker has loaded its pipelines, or cannot."""

    pid: int
    error: str | None
    """Why it cannot load; None when it is ready."""
    loaded: str
    """Fingerprint of the models, plans and engines that it runs."""


class WorkerEvents:
    """A pipe from the workers to the master. Create it before the fork."""

    def __init__(self) -> None:
        self._read, self._write = os.pipe()
        os.set_blocking(self._read, False)
        self._buffer = b""

    def ready(self, identities: Mapping[str, str]) -> None:
        """In a worker: every pipeline has answered. identities: what each has loaded, by name."""
        loaded = json.dumps(sorted(identities.items()))
        self._send(None, hashlib.sha256(loaded.encode()).hexdigest())

    def failed(self, error: str) -> None:
        """In a worker: it cannot load."""
        self._send(error[:600], "")

    def _send(self, error: str | None, loaded: str) -> None:
        text = json.dumps([os.getpid(), error, loaded], ensure_ascii=False)
        message = text.encode(errors="replace")  # a path in an error may be of any bytes
        assert len(message) < _EVENT_BYTES
        os.write(self._write, message + b"\n")

    def receive(self) -> list[WorkerEvent]:
        """In the master: the events since the last call, without waiting."""
        try:
            while data := os.read(self._read, 65536):
                self._buffer += data
        except BlockingIOError:
            pass
        *lines, self._buffer = self._buffer.split(b"\n")
        return [WorkerEvent(*json.loads(line)) for line in lines]
