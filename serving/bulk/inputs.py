"""What is read: documents in folders, globs, lists, tar archives, Parquet and object stores.

Everything is opened by fsspec, so an address may be a path or of any store that it knows (s3://,
gs://, memory://). A listing holds names alone; bytes are read where they are needed.
"""

from __future__ import annotations

import hashlib
import os
import tarfile
import threading
from dataclasses import dataclass, field, replace
from functools import lru_cache
from importlib.util import find_spec
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any

from serving.download import read_url
from serving.errors import (
    INSTALL,
    BadRequest,
    ConfigError,
    TooLarge,
    Undecodable,
    Unfetchable,
    printable,
)
from serving.imaging.source import MAX_URL_BYTES, SUFFIXES, URL_SECONDS, is_url

if TYPE_CHECKING:
    import fsspec
    import pyarrow

NAME = "paddleocr-hpi-serving"
"""The distribution."""
RANGE = 8
"""Pages of a document that are read at a time, so that a book does not hold one worker for long."""
_MAX_BYTES = 1 << 30
"""Of a document: it is held in memory."""


def require(extra: str, module: str) -> None:
    """Raise ConfigError, which names the extra, where its module is not installed."""
    if find_spec(module) is None:
        raise ConfigError(f"{module} is not installed; run: {INSTALL[extra]}")


@dataclass(frozen=True, slots=True)
class Document:
    """A document, and where its bytes are."""

    name: str
    """Its address; a file in an archive is ARCHIVE/NAME, a row of Parquet FILE#ROW."""
    address: str
    """What is opened."""
    span: tuple[int, int] | None = None
    """Of a file in a tar archive: its first byte there, and the one behind its last."""
    cell: tuple[int, int, str] | None = None
    """Of a row of Parquet: its row group, its row there, and the column with the bytes."""
    problem: str = ""
    """Why it cannot be read, where the listing has shown that."""

    def read(self) -> bytes:
        """Its bytes. Raises InputError and TimedOut."""
        if self.problem:
            raise Undecodable(self.problem)
        if is_url(self.address):
            return read_url(self.address, max_bytes=MAX_URL_BYTES, seconds=URL_SECONDS)
        if "://" not in self.address and _is_special(self.address):
            raise BadRequest(f"{self.name}: not a regular file")
        try:
            if self.cell is not None:
                group, row, column = self.cell
                with _ROW_GROUPS:
                    data = _row_group(self.address, group, column)[row].as_py()
            else:
                store, path = _store(self.address)
                start, end = self.span or (0, _MAX_BYTES + 1)
                data = store.cat_file(path, start=start, end=end)
        except ConfigError as error:  # a store whose package is not installed
            raise Unfetchable(str(error)) from error
        except Exception as error:  # each store raises its own
            raise Unfetchable(f"{self.address}: {_reason(error)}") from error
        if not isinstance(data, bytes):
            raise BadRequest(f"{self.name}: {'null' if data is None else type(data)}, not bytes")
        if len(data) > _MAX_BYTES:
            raise TooLarge(f"{self.name}: more than {_MAX_BYTES >> 30} GiB: split it")
        return data


@dataclass(frozen=True, slots=True)
class Item:
    """The unit of work: up to RANGE pages of a document."""

    document: Document
    first: int = 0
    """The first page, from 0."""
    count: int | None = None
    """Pages of the document; None before it has been opened."""
    data: bytes | None = field(default=None, repr=False)
    """The document's bytes, where they travel with it."""

    @property
    def key(self) -> tuple[str, int]:
        """What no two items of a run have."""
        return self.document.name, self.first

    def read(self) -> bytes:
        """The document's bytes. Raises InputError and TimedOut."""
        if self.data is not None:
            return self.data
        return self.document.read() if self.count is None else _read_again(self.document)


@lru_cache(maxsize=1)
def _read_again(document: Document) -> bytes:
    """Of a long document: its next pages are asked for soon, and need no further download."""
    return document.read()


@dataclass(slots=True)
class Listing:
    """The documents of an input, once each, in order."""

    column: str | None = None
    """Of Parquet."""
    documents: dict[str, Document] = field(default_factory=dict)
    """By name."""
    source: str = ""
    """The absolute address of the input."""
    left_out: int = 0
    """Files that are named as no image and no PDF, and documents that are listed twice."""
    _names: dict[str, str] = field(default_factory=dict)
    """The name of each as the input has it, by that in `documents`."""

    def add_input(self, source: str) -> None:
        """A folder, a glob, a list (.txt), an archive (.tar), Parquet or a single file.

        Raises ConfigError where nothing is there.
        """
        if "://" in source and "::" in source:
            raise ConfigError(f"{source}: stores within others are not read: unpack it first")
        before = len(self.documents)
        store, path = _store(source)
        self.source = _absolute(source)
        try:
            if path.endswith(".txt"):
                lines = store.cat_file(path).decode("utf-8-sig").split("\n")
                files = [_absolute(line.strip()) for line in lines if line.strip()]
            elif any(mark in path for mark in "*?[") and not store.exists(path):
                files = [store.unstrip_protocol(found) for found in sorted(store.glob(path))]
            elif store.isdir(path):
                files = [store.unstrip_protocol(found) for found in sorted(store.find(path))]
                files = [file for file in files if self._is_document(file)]
            else:
                files = [store.unstrip_protocol(path)] if store.exists(path) else []
            for file in files:
                self._add_file(file.removeprefix("file://"))
        except ConfigError:
            raise
        except Exception as error:  # each store raises its own
            raise ConfigError(f"{source}: {_reason(error)}") from error
        if len(self.documents) == before:
            raise ConfigError(f"{source}: no document found: give a folder, glob, list or archive")

    def _is_document(self, file: str) -> bool:
        """By its name: of a known suffix, or without one."""
        path = PurePosixPath(file)
        known = path.suffix.lower() in {"", ".tar", ".parquet", *SUFFIXES}
        self.left_out += not (fits := known and not path.name.startswith("."))
        return fits

    def _add_file(self, file: str) -> None:
        if file.endswith(".tar"):
            self._add_archive(file)
        elif file.endswith(".parquet"):
            self._add_parquet(file)
        else:
            self._add(Document(file, file))

    def _add(self, document: Document) -> None:
        name, shown = document.name, printable(document.name)
        if self._names.setdefault(shown, name) != name:  # they differ in bytes that are no UTF-8
            shown += f" ({hashlib.sha256(os.fsencode(name)).hexdigest()[:8]})"
        document = replace(document, name=shown)
        twice = self.documents.setdefault(shown, document) is not document
        self.left_out += twice

    def _add_archive(self, file: str) -> None:
        """Its members' headers are read, not their bytes. What is broken is a document's error."""
        store, path = _store(file)
        try:
            with store.open(path, "rb") as opened, tarfile.open(fileobj=opened, mode="r:") as tar:
                for member in tar:
                    if member.isfile() and self._is_document(member.name):
                        span = member.offset_data, member.offset_data + member.size
                        self._add(Document(f"{file}/{member.name}", file, span))
                opened.seek(tar.offset)
                if opened.read(tarfile.BLOCKSIZE) != tarfile.NUL * tarfile.BLOCKSIZE:
                    problem = f"{file}: damaged or cut off at byte {tar.offset}; the rest is lost"
                    self._add(Document(file, file, problem=problem))
        except tarfile.TarError as error:
            problem = f"{file}: a broken archive, or a compressed one ({error}); unpack it"
            self._add(Document(file, file, problem=problem))

    def _add_parquet(self, file: str) -> None:
        """A row a document: the column has its bytes or its address."""
        require("bulk", "pyarrow")
        import pyarrow
        from pyarrow import parquet

        try:
            with parquet.ParquetFile(_store_file(file)) as opened:
                schema = opened.schema_arrow
                column = self.column or _only_column(file, schema)
                kind = schema.field(column.partition(".")[0]).type
                addresses = pyarrow.types.is_string(kind) or pyarrow.types.is_large_string(kind)
                row = 0
                for group in range(opened.num_row_groups):
                    if addresses:
                        found = opened.read_row_group(group, [column])[column].to_pylist()
                    else:
                        found = [None] * opened.metadata.row_group(group).num_rows
                    for index, address in enumerate(found):
                        name = f"{file}#{row}"
                        if not addresses:
                            self._add(Document(name, file, cell=(group, index, column)))
                        elif address:
                            self._add(Document(_absolute(address), _absolute(address)))
                        else:
                            self._add(Document(name, file, problem=f"{name}: no address"))
                        row += 1
        except KeyError:
            raise ConfigError(f"{file}: no column {column!r}; --column names another") from None
        except (pyarrow.ArrowException, OSError) as error:
            self._add(Document(file, file, problem=f"{file}: no Parquet: {error}"))


def _only_column(file: str, schema: pyarrow.Schema) -> str:
    import pyarrow

    kinds = pyarrow.types
    tests = kinds.is_binary, kinds.is_large_binary, kinds.is_string, kinds.is_large_string
    fits = [field.name for field in schema if any(test(field.type) for test in tests)]
    if len(fits) != 1:
        raise ConfigError(
            f"{file}: which column has the documents? --column names one of "
            f"{', '.join(schema.names)}; image.bytes is the field bytes of the column image"
        )
    return str(fits[0])


_ROW_GROUPS = threading.Lock()
"""So that several threads do not read the same group side by side."""


@lru_cache(maxsize=1)
def _row_group(file: str, group: int, column: str) -> Any:
    """A column of a row group. Rows are asked for in order, so that the last one is enough."""
    from pyarrow import compute, parquet

    first, *inner = column.split(".")
    with parquet.ParquetFile(_store_file(file)) as opened:
        values = opened.read_row_group(group, [column])[first]
    return compute.struct_field(values, inner) if inner else values


def _is_special(path: str) -> bool:
    """Whether it is a pipe or a socket, at which a reader could wait for ever."""
    return Path(path).exists() and not Path(path).is_file()


def _store_file(file: str) -> Any:
    store, path = _store(file)
    return store.open(path, "rb")


def _reason(error: Exception) -> str:
    return getattr(error, "strerror", None) or str(error) or type(error).__name__


def _absolute(address: str) -> str:
    """With its protocol, but for files."""
    if is_url(address):
        return address
    store, path = _store(address)
    return str(store.unstrip_protocol(path)).removeprefix("file://")


def _store(address: str) -> tuple[fsspec.AbstractFileSystem, str]:
    """The store of an address, and the path in it. Raises ConfigError."""
    require("bulk", "fsspec")
    import fsspec

    try:
        store, path = fsspec.url_to_fs(address)
    except (ImportError, ValueError) as error:
        raise ConfigError(f"{address}: {error}") from error
    return store, path
