"""Nothing calls home: no connection, no name looked up, no file outside the project's folders."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

NETWORK = re.compile(r"sa_family=AF_INET6?, .*?inet_(?:addr|pton)\(.*?\"([\d.:a-f]+)\"")
WRITTEN = re.compile(r"openat\([^,]+, \"([^\"]+)\", [A-Z_|]*O_(?:WRONLY|RDWR|CREAT)[^)]*\) = \d")
MADE = re.compile(r"(?:mkdir(?:at)?|rename(?:at2?)?)\((?:AT_FDCWD, )?\"([^\"]+)\"[^)]*\) = 0")

COMMANDS = {
    "doctor": ["doctor"],
    "predict": ["predict", "docs/page.jpg"],
    "bulk": ["bulk", "docs/page.jpg", "OUTPUT"],
    "plan": ["plan"],
    "build": ["build"],
}
"""What is traced: every command that opens an engine, with an engine plan that is built already."""


@pytest.fixture(scope="module")
def strace() -> str:
    """The system's strace; the test is skipped without it, but not where it is required."""
    found = shutil.which("strace")
    if found is None:
        if os.environ.get("OCR_HPI_REQUIRE_STRACE"):
            pytest.fail("strace is required; on Debian and Ubuntu: apt install strace")
        pytest.skip("needs strace; on Debian and Ubuntu: apt install strace")
    return found


def trace(strace: str, command: list[str], repo: Path, folder: Path) -> str:
    """What the command and its children asked of the kernel; its home folder is empty."""
    home, log = folder / "home", folder / "trace"
    home.mkdir()
    calls = "trace=connect,sendto,sendmmsg,sendmsg,openat,mkdir,mkdirat,rename,renameat,renameat2"
    done = subprocess.run(
        [strace, "-f", "-qq", "-s", "200", "-e", calls, "-o", str(log), *command],
        cwd=repo,
        env={**os.environ, "HOME": str(home), "TMPDIR": str(folder), "PYTHONPATH": str(repo)},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    assert list(home.iterdir()) == []
    return log.read_text(errors="replace")


@pytest.mark.parametrize("name", COMMANDS)
def test_no_command_calls_home(
    strace: str, name: str, built: Path, repo: Path, tmp_path: Path
) -> None:
    own = [str(tmp_path / "out") if word == "OUTPUT" else word for word in COMMANDS[name]]
    command = [sys.executable, "-m", "serving.cli", *own]
    if name != "doctor":
        command += ["--models", str(built)]
    log = trace(strace, command, repo, tmp_path)
    assert NETWORK.findall(log) == []
    allowed = (str(tmp_path), str(built), "/dev/", "/proc/", "/tmp/")
    written = {*WRITTEN.findall(log), *MADE.findall(log)}
    assert {path for path in written if not path.startswith(allowed)} == set()


def test_the_trace_sees_what_calls_home(strace: str, repo: Path, tmp_path: Path) -> None:
    """What the test above would say of a command that looks a name up."""
    look_up = "import socket, contextlib\nwith contextlib.suppress(OSError):\n"
    look_up += " socket.create_connection(('127.0.0.1', 9), 1)"
    log = trace(strace, [sys.executable, "-c", look_up], repo, tmp_path)
    assert NETWORK.findall(log) == ["127.0.0.1"]


def test_the_backends_are_imported_silently(strace: str, repo: Path, tmp_path: Path) -> None:
    code = "import serving, openvino, onnxruntime, time; openvino.Core(); time.sleep(1)"
    log = trace(strace, [sys.executable, "-c", code], repo, tmp_path)
    assert NETWORK.findall(log) == []
