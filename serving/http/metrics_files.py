"""The files in which workers count, and what becomes of those of workers that died.

prometheus_client keeps a file a worker for ever, because counters must not fall. Here the counts of
dead workers are added up in one file, so that there are no more files than workers.
"""

from __future__ import annotations

import fcntl
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

_VARIABLE = "PROMETHEUS_MULTIPROC_DIR"
_SHM = Path("/dev/shm")  # noqa: S108  (counting must not wait for a disk)
_NOBODY = 0
"""Instead of a process, in the names of the files that keep what the dead have counted."""


@contextmanager
def fresh_folder() -> Iterator[None]:
    """In the master: a folder for this server's workers, removed at its end."""
    master = os.getpid()
    folder = tempfile.mkdtemp(prefix="ocr-hpi-metrics-", dir=_SHM if _SHM.is_dir() else None)
    os.environ[_VARIABLE] = folder
    try:
        yield
    finally:
        if os.getpid() == master:  # a worker ends here as well
            del os.environ[_VARIABLE]
            shutil.rmtree(folder, ignore_errors=True)


def folder() -> Path | None:
    """In a worker: the folder; None where there is no master."""
    path = os.environ.get(_VARIABLE)
    return Path(path) if path else None


def workers(folder: Path) -> list[int]:
    """Processes that live and count."""
    return sorted({pid for pid in map(_pid, folder.glob("*.db")) if _lives(pid)})


@contextmanager
def merged(folder: Path) -> Iterator[None]:
    """While inside, no count is in two files, and none in the file of a dead worker."""
    with (folder / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # ends with the file, and with this process
        dead = [file for file in folder.glob("*_*.db") if not _lives(_pid(file))]
        for kind in ("counter", "histogram"):
            _add_up(folder, kind, [file for file in dead if file.name.startswith(kind)])
        for file in dead:
            if _pid(file) != _NOBODY:
                file.unlink()
        yield


def _add_up(folder: Path, kind: str, files: list[Path]) -> None:
    from prometheus_client.mmap_dict import MmapedDict, mmap_key
    from prometheus_client.multiprocess import MultiProcessCollector

    whole = folder / f"{kind}_{_NOBODY}.db"
    if not set(files) - {whole}:
        return
    new = folder / f"{kind}.new"
    new.unlink(missing_ok=True)
    counts = MmapedDict(str(new))
    for metric in MultiProcessCollector.merge([str(file) for file in files], accumulate=False):
        for sample in metric.samples:
            key = mmap_key(
                metric.name,
                sample.name,
                list(sample.labels),
                list(sample.labels.values()),
                metric.documentation,
            )
            counts.write_value(key, sample.value, 0.0)
    counts.close()
    new.replace(whole)


def _pid(file: Path) -> int:
    return int(file.stem.rpartition("_")[2])


def _lives(pid: int) -> bool:
    with suppress(OSError):
        return Path(f"/proc/{pid}/stat").read_text().rpartition(") ")[2][0] not in "ZX"
    return False
