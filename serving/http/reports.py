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


class Reports:
    """A pipe from the workers to the master. Make it before the fork."""

    def __init__(self) -> None:
        self._read, self._write = os.pipe()
        os.set_blocking(self._read, False)
        self._rest = b""

    def send(self, error: str | None = None) -> None:
        """In a worker: report that it is ready, or the error."""
        told = None if error is None else error[:1000]
        os.write(self._write, json.dumps([os.getpid(), told]).encode()[:_MOST] + b"\n")

    def receive(self) -> list[Report]:
        """In the master: the reports that have come since; never waits."""
        try:
            while data := os.read(self._read, 65536):
                self._rest += data
        except BlockingIOError:
            pass
        *whole, self._rest = self._rest.split(b"\n")
        return [Report(*json.loads(line)) for line in whole]
