"""Writing to disk: all or nothing, beside other processes, with hashes, and errors in words."""

from __future__ import annotations

import errno
import fcntl
import hashlib
import os
import pwd
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from serving.errors import DiskError


def sha256(path: Path) -> str:
    """sha256 (hex) of a file's bytes."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def sidecar(path: Path) -> Path:
    """The file beside `path` with its hash, as `sha256sum` writes and checks it."""
    return path.with_name(f"{path.name}.sha256")


def write_sidecar(path: Path, name: str | None = None) -> None:
    """Record the hash of `path` beside it. name: which it will have."""
    target = path.with_name(name or path.name)
    write_atomically(sidecar(target), f"{sha256(path)}  {target.name}\n")


def is_intact(path: Path) -> bool:
    """Whether the file is there, with a hash that is in its sidecar."""
    try:
        hashes = sidecar(path).read_text(encoding="utf-8").split()[::2]
        return sha256(path) in hashes
    except (FileNotFoundError, NotADirectoryError, UnicodeDecodeError):
        return False


_DISK_FULL = (errno.ENOSPC, errno.EDQUOT)
_FORBIDDEN = (errno.EACCES, errno.EPERM, errno.EROFS)


def disk_error(error: OSError, root: Path | None = None) -> DiskError:
    """The error in words: what failed, and how to fix it. root: what was written to."""
    where = Path(os.fsdecode(error.filename)) if isinstance(error.filename, str | bytes) else root
    reason = error.strerror or str(error)
    if error.errno in _DISK_FULL:
        what = f"{where}: " if where else ""
        return DiskError(
            f"{what}the disk is full ({reason.lower()}); nothing half done was kept. Free some "
            "space or choose another folder, then run the same command again"
        )
    message = reason if where is None else f"{where}: {reason}"
    if error.errno in _FORBIDDEN:
        message += f"; {_access(where)}" if where is not None else ""
    return DiskError(message)


def _access(path: Path) -> str:
    """Who owns the path, or the folder that would hold it, and what to do."""
    near = next(
        (found for found in (path, *path.absolute().parents) if os.path.lexists(found)), path
    )
    try:
        owner = near.owner()
    except (KeyError, OSError):  # a user without a name
        owner = "another user"
    try:
        me = pwd.getpwuid(os.geteuid()).pw_name
    except KeyError:
        me = f"user {os.geteuid()}"
    return (
        f"{near} belongs to {owner}, and this is {me}. Make it readable and writable, or choose "
        "another folder"
    )


@contextmanager
def disk_errors(root: Path) -> Iterator[None]:
    """Turn an OSError of writing under `root` into a DiskError that says how to fix it."""
    try:
        yield
    except OSError as error:
        raise disk_error(error, root) from error


@contextmanager
def locked(path: Path, on_wait: Callable[[], None]) -> Iterator[None]:
    """Hold the lock of that file; `on_wait` is called where another process has it."""
    from filelock import FileLock, Timeout

    lock = FileLock(path)
    try:
        lock.acquire(timeout=0)
    except Timeout:
        on_wait()
        lock.acquire()
    try:
        yield
    finally:
        lock.release()


@contextmanager
def locked_folder(folder: Path, *, wait: bool = True) -> Iterator[bool]:
    """Hold the folder's lock for the `with` block; whether it was free, where it does not wait."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
        except BlockingIOError:
            yield False
        else:
            yield True
    finally:
        os.close(descriptor)


def publish(staged: Path, target: Path) -> None:
    """Rename the finished file or folder `staged` to `target`, atomically and flushed to disk."""
    for path in staged.iterdir() if staged.is_dir() else ():
        _fsync(path)
    _fsync(staged)
    staged.rename(target)
    _fsync(target.parent)


def write_with_sidecar(path: Path, text: str) -> None:
    """Replace a small text file and its sidecar. Killed at any moment, it leaves a file whose hash
    is in its sidecar: for that moment there are two in it.
    """
    line = f"{hashlib.sha256(text.encode()).hexdigest()}  {path.name}\n"
    before = f"{sha256(path)}  {path.name}\n" if is_intact(path) else ""
    write_atomically(sidecar(path), before + line)
    write_atomically(path, text)
    write_atomically(sidecar(path), line)


def write_atomically(path: Path, text: str) -> None:
    """Replace a small text file atomically."""
    partial = path.with_name(f".{path.name}.partial")
    try:
        partial.write_text(text, encoding="utf-8")
        if path.exists():
            shutil.copymode(path, partial)
        _fsync(partial)
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)


def _fsync(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
