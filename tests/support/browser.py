"""Debian's Chromium for the tests of the page, and a server for it to talk to."""

from __future__ import annotations

import os
import select
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

PATIENCE = 60.0
"""Seconds for the server to load; it takes two or three."""

REQUIRED = "OCR_HPI_REQUIRE_CHROMIUM"
"""Set to 1 (.ci/run does), a missing Chromium fails the tests that it would else skip."""


def chromium() -> str:
    """The path of Chromium; without one, the test is skipped or fails."""
    found = shutil.which("chromium")
    if found:
        return found
    missing = "needs Chromium; on Debian: apt-get install chromium"
    if os.environ.get(REQUIRED) == "1":
        pytest.fail(missing)
    pytest.skip(missing)


@contextmanager
def serving(models: Path, repo: Path, log: Path) -> Iterator[str]:
    """`ocr-hpi serve` with the default pipeline, and a second name for it; yields its address."""
    yaml = repo / "configs" / "PP-OCRv4_mobile.yaml"
    names = [word for name in ("accurate", "again") for word in ("--pipeline", f"{name}={yaml}")]
    command = [sys.executable, "-m", "serving.cli", "serve", "--port", "0", *names]
    with log.open("w") as stderr:
        process = subprocess.Popen(
            [*command, "--models", str(models)],
            cwd=repo,
            env={**os.environ, "PYTHONPATH": str(repo)},
            stdout=subprocess.PIPE,
            stderr=stderr,
            text=True,
        )
        assert process.stdout is not None
        try:
            ready, _, _ = select.select([process.stdout], [], [], PATIENCE)
            line = process.stdout.readline().strip() if ready else ""
            assert line.startswith("ready http://"), log.read_text()
            yield line.removeprefix("ready ")
        finally:
            process.terminate()
            assert process.wait(PATIENCE) == 0
            process.stdout.close()
