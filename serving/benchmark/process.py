"""A server of ours as a process of its own, and the memory that it and its children hold."""

from __future__ import annotations

import contextlib
import re
import signal
import subprocess
import tempfile
from pathlib import Path

from serving.errors import EngineError

_READY = re.compile(r"ready http://(\S+):(\d+)")


class Ours:
    """`ocr-hpi serve` with one pipeline on a free port; ready when it is made.

    Raises EngineError when it ends before that, with what it said last.
    """

    def __init__(self, pipeline: Path, models: Path, python: Path) -> None:
        self._log = tempfile.TemporaryFile()  # noqa: SIM115  closed by close()
        settings = ["--port", "0", "--pipeline", f"accurate={pipeline}", "--models", models]
        self._process = subprocess.Popen(
            [str(python), "-m", "serving.cli", "serve", *map(str, settings)],
            stdout=subprocess.PIPE,
            stderr=self._log,
            encoding="utf-8",
        )
        assert self._process.stdout is not None
        told = _READY.search(self._process.stdout.readline())
        if told is None:
            raise self._failed()
        self.address = (told[1], int(told[2]))

    def memory(self) -> float:
        """MiB of the server and its children now, shared pages counted once."""
        pids = [self._process.pid, *_descendants(self._process.pid)]
        return sum(_proportional_kb(pid) for pid in pids) / 1024

    def close(self) -> None:
        """End it as an operator does."""
        if self._process.poll() is None:
            self._process.send_signal(signal.SIGTERM)
            try:
                self._process.wait(timeout=30)
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.wait()
        if self._process.stdout is not None:
            self._process.stdout.close()
        self._log.close()

    def _failed(self) -> EngineError:
        code = self._process.wait()
        self._log.seek(0)
        said = self._log.read().decode(errors="replace").strip()
        self.close()
        last = said.splitlines()[-1] if said else "nothing on stderr"
        return EngineError(f"soak: the server ended with code {code}: {last}")


def _descendants(pid: int) -> list[int]:
    found = []
    for task in Path(f"/proc/{pid}/task").glob("*/children"):
        with contextlib.suppress(OSError):  # it has just ended
            for child in map(int, task.read_text().split()):
                found += [child, *_descendants(child)]
    return found


def _proportional_kb(pid: int) -> int:
    """Resident memory, each shared page divided among those who share it."""
    try:
        status = Path(f"/proc/{pid}/smaps_rollup").read_text()
    except OSError:
        return 0  # it has just ended
    found = re.search(r"^Pss:\s+(\d+) kB", status, re.MULTILINE)
    return int(found[1]) if found else 0
