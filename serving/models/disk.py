"""What the disk may refuse, said clearly; and a folder that appears whole or not at all."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from serving.errors import FetchError

_FULL = (errno.ENOSPC, errno.EDQUOT)
_FORBIDDEN = (errno.EACCES, errno.EPERM, errno.EROFS)


@contextmanager
def disk_errors(root: Path) -> Iterator[None]:
    """Turn an OSError of writing under `root` into a FetchError that says the way out."""
    try:
        yield
    except OSError as error:
        if error.errno in _FULL:
            raise disk_full(root) from error
        where = Path(os.fsdecode(error.filename)) if error.filename else root
        if error.errno in _FORBIDDEN and where.is_relative_to(root):
            raise FetchError(
                f"{where}: {error.strerror}; make {root} writable or choose another folder "
                "with --models"
            ) from error
        raise FetchError(f"{where}: {error.strerror or error}") from error


def disk_full(root: Path) -> FetchError:
    """The error of a full disk."""
    return FetchError(
        f"{root}: the disk is full; nothing half done was kept. Free some space, or choose "
        "another folder with --models, and run the same command again"
    )


def publish(staged: Path, target: Path) -> None:
    """Give the finished folder `staged` its final name, all at once and to last."""
    for path in staged.iterdir():
        _sync(path)
    _sync(staged)
    staged.rename(target)
    _sync(target.parent)


def write_whole(path: Path, text: str) -> None:
    """Replace a small text file, all at once."""
    partial = path.with_name(f".{path.name}.partial")
    try:
        partial.write_text(text, encoding="utf-8")
        _sync(partial)
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)


def _sync(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
