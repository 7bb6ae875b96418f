"""What workers tell the master: that they are ready, or why they never will be."""

from __future__ import annotations

import json
import os
from dataclasses import dataclass

_MOST = 4000
"""Bytes of a report. A write up to PIPE_BUF (4096) does not mix with those of other workers."""


@dataclass(frozen=True, slots=True)
class Report:
    """One worker's word."""

    pid: int
    error: str | None = None
    """Why it cannot load; None when it is ready."""
    loaded: str = ""
    """Tells the models, plans and engines that it runs."""


class Reports:
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

    def receive(self) -> list[Report]:
        """In the master: the reports that have come since; never waits."""
        try:
            while data := os.read(self._read, 65536):
                self._rest += data
        except BlockingIOError:
            pass
        *whole, self._rest = self._rest.split(b"\n")
        return [Report(*json.loads(line)) for line in whole]
