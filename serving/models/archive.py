"""A model out of a tar or zip archive, which is trusted in nothing.

Only the files of a model are written, under their own names: no path of the archive is ever used.
"""

from __future__ import annotations

import lzma
import stat
import tarfile
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path, PurePosixPath
from typing import IO, NamedTuple

from serving.errors import FetchError
from serving.models.files import MODEL_FILES

_MOST_MEMBERS = 1000
_MOST_BYTES = 4 << 30  # unpacked; the largest OCR model has a tenth of it


class _Member(NamedTuple):
    path: str
    size: int
    ordinary: bool
    """A file or a folder: no link, device or pipe."""
    file: bool
    key: tarfile.TarInfo | zipfile.ZipInfo


def unpack(archive: Path, folder: Path) -> None:
    """Write the model files of `archive` (tar, compressed or not, or zip) into `folder`.

    Raises FetchError for an archive that is broken, too large, hostile (links, devices, paths
    that lead outside) or holds no model or more than one; OSError where the disk refuses.
    """
    try:
        with _opened(archive) as opened:
            members = _members(opened)
            _refuse_hostile(archive, members)
            for member in _model_members(archive, members):
                target = folder / PurePosixPath(member.path).name
                with _content(opened, member) as source, target.open("xb") as file:
                    _copy(source, file, member.size)
    except (
        tarfile.TarError, zipfile.BadZipFile, zlib.error, lzma.LZMAError, EOFError,
        NotImplementedError, RuntimeError,
    ) as error:  # fmt: skip
        what = " ".join(str(error).split())[:200]
        raise FetchError(
            f"{archive.name}: broken, cut off, or no tar or zip archive ({what})"
        ) from error


@contextmanager
def _opened(archive: Path) -> Iterator[tarfile.TarFile | zipfile.ZipFile]:
    if zipfile.is_zipfile(archive):
        with zipfile.ZipFile(archive) as zipped:
            yield zipped
    else:
        with tarfile.open(archive) as tarred:
            yield tarred


def _members(opened: tarfile.TarFile | zipfile.ZipFile) -> list[_Member]:
    found = []
    if isinstance(opened, zipfile.ZipFile):
        for zipped in opened.infolist():
            kind = stat.S_IFMT(zipped.external_attr >> 16)
            ordinary = kind in (0, stat.S_IFREG, stat.S_IFDIR)
            found.append(
                _Member(zipped.filename, zipped.file_size, ordinary, not zipped.is_dir(), zipped)
            )
    else:
        for count, tarred in enumerate(opened):
            if count > _MOST_MEMBERS:
                break  # reported by _refuse_hostile; a tar need not be read to its end for it
            ordinary = tarred.isreg() or tarred.isdir()
            found.append(_Member(tarred.name, tarred.size, ordinary, tarred.isreg(), tarred))
    return found


def _refuse_hostile(archive: Path, members: list[_Member]) -> None:
    if len(members) > _MOST_MEMBERS:
        raise FetchError(f"{archive.name}: more than {_MOST_MEMBERS} members: not a model archive")
    for member in members:
        path = PurePosixPath(member.path)
        if path.is_absolute() or ".." in path.parts or "\\" in member.path:
            raise FetchError(f"{archive.name}: refused: {member.path!r} leads out of the archive")
        if not member.ordinary:
            raise FetchError(f"{archive.name}: refused: {member.path!r} is a link or a device")
    if sum(member.size for member in members) > _MOST_BYTES:
        raise FetchError(f"{archive.name}: refused: more than {_MOST_BYTES >> 30} GiB unpacked")


def _model_members(archive: Path, members: list[_Member]) -> list[_Member]:
    found = [m for m in members if m.file and PurePosixPath(m.path).name in MODEL_FILES]
    folders = {str(PurePosixPath(member.path).parent) for member in found}
    if not found:
        raise FetchError(f"{archive.name}: holds no model (no inference.yml, no graph)")
    if len(folders) > 1 or len({PurePosixPath(m.path).name for m in found}) < len(found):
        raise FetchError(f"{archive.name}: holds several models: {', '.join(sorted(folders))}")
    return found


def _content(opened: tarfile.TarFile | zipfile.ZipFile, member: _Member) -> IO[bytes]:
    if isinstance(opened, zipfile.ZipFile):
        assert isinstance(member.key, zipfile.ZipInfo)
        return opened.open(member.key)
    assert isinstance(member.key, tarfile.TarInfo)
    content = opened.extractfile(member.key)
    assert content is not None  # it is a regular file
    return content


def _copy(source: IO[bytes], target: IO[bytes], size: int) -> None:
    """Copy exactly `size` bytes: what is declared, so that nothing can grow past the limit."""
    while size > 0:
        chunk = source.read(min(size, 1 << 20))
        if not chunk:
            raise EOFError("a member is shorter than declared")
        target.write(chunk)
        size -= len(chunk)
