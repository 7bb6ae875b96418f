"""A model folder in PaddleX's form: its files and their digest, and writing all or nothing."""

from __future__ import annotations

import errno
import hashlib
import os
import pwd
import re
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from serving.errors import DiskError, ModelInvalid

MODEL_FILES = (
    "inference.yml",
    "inference.json",
    "inference.pdmodel",
    "inference.pdiparams",
    "inference.onnx",
)
"""Every file that belongs to a model, beside weights outside the graph (ONNX external data)."""


@dataclass(frozen=True, slots=True)
class ModelFiles:
    """The files of a complete model folder. At least one of `onnx` and `paddle` is set."""

    folder: Path
    onnx: Path | None
    paddle: tuple[Path, Path] | None
    """The graph (.json before .pdmodel, as PaddleX has it) and its weights."""


def model_files(folder: Path) -> ModelFiles:
    """Find the files of a model folder.

    Raises ModelInvalid naming what is missing. A file of no bytes counts as missing.
    """
    if not folder.is_dir():
        looked = f" ({folder.absolute()}: it is relative to the working directory)"
        raise ModelInvalid(
            f"{folder}: no such model folder{'' if folder.is_absolute() else looked}"
        )
    missing = missing_files(folder)
    if missing:
        raise ModelInvalid(f"{folder}: lacks {missing}; {_what_it_is(folder)}")
    files = {name: folder / name for name in MODEL_FILES if _has_bytes(folder / name)}
    graph = files.get("inference.json") or files.get("inference.pdmodel")
    weights = files.get("inference.pdiparams")
    return ModelFiles(
        folder=folder,
        onnx=files.get("inference.onnx"),
        paddle=(graph, weights) if graph and weights else None,
    )


_EXPORTS = ("inference", "best_accuracy/inference")
"""Where, in the output of a training with PaddleX, the model folder is."""


def _what_it_is(folder: Path) -> str:
    """What an incomplete folder is rather than a model, and what to do."""
    for name in _EXPORTS:
        if not missing_files(folder / name):
            return f"{folder / name} is the model: name that folder"
    if any(folder.glob("*.pdparams")):
        return (
            "*.pdparams are the weights of a training: export them with PaddleOCR's "
            "tools/export_model.py, and name the folder that it writes"
        )
    if missing_files(folder) == "inference.yml":
        return "PaddleOCR 2 exports none: `ocr-hpi adopt` makes a model folder of such an export"
    return "a model folder is what PaddleX exports"


def paddle_graph(folder: Path) -> Path:
    """The Paddle graph of a model folder. Raises ModelInvalid where it has none."""
    paddle = model_files(folder).paddle
    if paddle is None:
        raise ModelInvalid(
            f"{folder}: has no Paddle graph (inference.json or inference.pdmodel with "
            "inference.pdiparams)"
        )
    return paddle[0]


def missing_files(folder: Path) -> str:
    """The files that a model folder lacks, for an error message; empty for a complete one."""
    names = {name for name in MODEL_FILES if _has_bytes(folder / name)}
    missing = [] if "inference.yml" in names else ["inference.yml"]
    if "inference.onnx" not in names:
        if not names & {"inference.json", "inference.pdmodel"}:
            missing.append(
                "a graph (inference.json or inference.pdmodel with inference.pdiparams, "
                "or inference.onnx)"
            )
        elif "inference.pdiparams" not in names:
            missing.append("inference.pdiparams")
    return " and ".join(missing)


def copy_model(source: Path, target: Path) -> None:
    """Copy the model files that are in `source`, external data too, to the folder `target`."""
    present = (name for name in MODEL_FILES if (source / name).is_file())
    for name in (*present, *_external_data(source)):
        (target / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(source / name, target / name)


def digest(folder: Path) -> str:
    """sha256 (hex) over names and bytes of all the model's files in `folder`.

    Raises ModelInvalid for an incomplete folder.
    """
    model_files(folder)
    whole = hashlib.sha256()
    for name, value in file_hashes(folder).items():
        whole.update(f"{name} {value}\n".encode())
    return whole.hexdigest()


def file_hashes(folder: Path) -> dict[str, str]:
    """sha256 (hex) of each of the model's files in `folder`, by name."""
    names = [name for name in MODEL_FILES if _has_bytes(folder / name)]
    return {name: sha256(folder / name) for name in (*names, *_external_data(folder))}


_LOCATION = re.compile(rb"\n\x08location\x12([\x80-\xff]?[\x00-\x7f])")
"""Before the name of a file in an ONNX graph: a StringStringEntryProto, and the name's length."""


def _external_data(folder: Path) -> list[str]:
    """Files in or below the folder that hold weights of its ONNX graph, which names them.

    The graph's bytes are searched and not parsed, because a server does not need the package onnx.
    """
    graph = folder / "inference.onnx"
    data = graph.read_bytes() if _has_bytes(graph) else b""
    names: set[str] = set()
    for match in _LOCATION.finditer(data):
        length = sum((byte & 127) << 7 * index for index, byte in enumerate(match[1]))
        name = data[match.end() : match.end() + length].decode("utf-8", "replace")
        path = PurePosixPath(name)
        inside = name.isprintable() and not path.is_absolute() and ".." not in path.parts
        if inside and (folder / path).is_file():
            names.add(str(path))
    return sorted(names - {*MODEL_FILES})


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


def _has_bytes(path: Path) -> bool:
    return path.is_file() and path.stat().st_size > 0


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
    """Whose the path, or the folder that it would be in, is, and what to do."""
    near = next(
        (place for place in (path, *path.absolute().parents) if os.path.lexists(place)), path
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
