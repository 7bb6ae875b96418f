"""The folder that a run writes: shards of rows, its settings and its summary.

A shard is the unit of commit: it is written under a temporary name and then renamed, and which
documents and pages are in it is in its rows. So a run that was killed at any moment goes on behind
its last shard: `Output` reads which items the shards have.

| file | has |
| --- | --- |
| part-00000.parquet (.jsonl) | rows, sorted by document and page |
| _settings.json | what the rows depend on; a run with other settings is refused |
| _summary.json | figures of the last run that ended by itself |
| _lock | held while a run writes |
"""

from __future__ import annotations

import io
import json
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, Literal, cast

from serving.bulk.inputs import RANGE, require
from serving.bulk.read import Row
from serving.disk import disk_errors, locked, publish, write_atomically
from serving.errors import ConfigError, DiskError

Form = Literal["parquet", "jsonl"]
_SETTINGS = "_settings.json"


class Output:
    """An output folder, while one run writes it."""

    def __init__(self, folder: Path, form: Form, shard_rows: int) -> None:
        self._folder, self._form, self._shard_rows = folder, form, shard_rows
        self._rows: list[Row] = []
        self._next = 0
        self._items: set[tuple[str, int]] = set()
        self.counts: dict[str, int] = {}
        """Pages of each committed document that has more than RANGE."""
        self.pages = 0
        """Committed, with those that could not be read."""
        self.errors = Counter[str]()
        """Of these, by code."""

    def has(self, key: tuple[str, int]) -> bool:
        """Whether an item is in a shard."""
        return key in self._items

    def add(self, rows: Iterable[Row]) -> None:
        """Take the rows of an item; commit when there are enough for a shard. Raises DiskError."""
        self._rows += rows
        if len(self._rows) >= self._shard_rows:
            self.commit()

    def commit(self) -> None:
        """Make what was added permanent. Raises DiskError, and then nothing half done is left."""
        if not self._rows:
            return
        rows = sorted(self._rows, key=lambda row: (row["document"], row["page"] or 0))
        target = self._folder / f"part-{self._next:05}.{self._form}"
        partial = target.with_name(f".{target.name}.partial")
        with disk_errors(self._folder):
            try:
                partial.write_bytes(_parquet(rows) if self._form == "parquet" else _jsonl(rows))
                publish(partial, target)
            finally:
                partial.unlink(missing_ok=True)
        self._count(rows)
        self._next += 1
        self._rows.clear()

    def write_summary(self, summary: Mapping[str, Any]) -> None:
        """Raises DiskError."""
        with disk_errors(self._folder):
            write_atomically(self._folder / "_summary.json", json.dumps(summary, indent=1) + "\n")

    def _count(self, rows: Iterable[Row]) -> None:
        for row in rows:
            document, page = row["document"], row["page"] or 0
            if page % RANGE == 0:
                self._items.add((document, page))
            if (row["pages"] or 0) > RANGE:
                self.counts[document] = cast(int, row["pages"])
            self.pages += 1
            if error := row["error"]:
                self.errors[error["code"]] += 1

    def _resume(self, settings: Mapping[str, Any]) -> None:
        """Read what is there. Raises ConfigError where it is not of a run with these settings."""
        path = self._folder / _SETTINGS
        if not path.exists():
            if others := [
                file.name
                for file in self._folder.iterdir()
                if file.name != "_lock" and file.suffix != ".partial"
            ]:
                raise ConfigError(
                    f"{self._folder}: not empty, and no run wrote it ({others[0]} is there): "
                    "choose another OUTPUT"
                )
            write_atomically(path, json.dumps(settings, indent=1) + "\n")
            return
        try:
            before = json.loads(path.read_bytes())
        except ValueError as error:
            raise ConfigError(f"{path}: broken ({error}): choose another OUTPUT") from error
        for name in dict.fromkeys((*before, *settings)):
            if before.get(name) != settings.get(name):
                raise ConfigError(
                    f"{self._folder}: written by a run with another {name}: "
                    f"{_short(before.get(name))}, not {_short(settings.get(name))}. Choose another "
                    "OUTPUT, or run with the same settings to resume"
                )
        for shard in sorted(self._folder.glob(f"part-*.{self._form}")):
            self._count(_rows(shard))
            self._next = max(self._next, int(shard.stem.removeprefix("part-")) + 1)


@contextmanager
def open_output(
    folder: Path, form: Form, settings: Mapping[str, Any], shard_rows: int
) -> Iterator[Output]:
    """The folder, made where it is not there, for this run alone.

    settings: what its rows depend on, as plain values. Raises ConfigError where another run's are
    in it, and DiskError where it cannot be written or another run writes it now.
    """

    def refuse() -> None:
        raise DiskError(f"{folder}: another run writes it now; wait for its end, then try again")

    if form == "parquet":
        require("bulk", "pyarrow")
    output = Output(folder, form, shard_rows)
    with ExitStack() as stack:
        with disk_errors(folder):
            folder.mkdir(parents=True, exist_ok=True)
            stack.enter_context(locked(folder / "_lock", refuse))
            output._resume({"format": form, "pages_at_a_time": RANGE, **settings})
        yield output


def _short(value: Any) -> str:
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= 200 else f"{text[:200]}..."


def _jsonl(rows: Iterable[Row]) -> bytes:
    return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows).encode()


def _parquet(rows: list[Row]) -> bytes:
    import pyarrow as pa
    from pyarrow import parquet

    number, text = pa.int32(), pa.string()
    line = pa.struct([("text", text), ("score", pa.float32()), ("box", pa.list_(pa.list_(number)))])
    schema = pa.schema(
        [
            ("document", text),
            ("page", number),
            ("pages", number),
            ("width", number),
            ("height", number),
            ("angle", number),
            ("text", text),
            ("lines", pa.list_(line)),
            ("ms", pa.float32()),
            ("pipeline", text),
            ("error", pa.struct([("code", text), ("message", text)])),
        ]
    )
    table = pa.Table.from_pylist(cast("list[dict[str, Any]]", rows), schema)
    # In memory first, so that a full disk is an OSError of writing a file and nothing else.
    buffer = io.BytesIO()
    parquet.write_table(table, buffer, compression="zstd")
    return buffer.getvalue()


def _rows(shard: Path) -> Iterator[Row]:
    """Of each row what a resumed run needs. Raises ConfigError for a damaged shard."""
    try:
        if shard.suffix == ".jsonl":
            with shard.open(encoding="utf-8") as lines:
                yield from map(json.loads, lines)
            return
        import pyarrow as pa
        from pyarrow import parquet

        try:
            table = parquet.read_table(shard, columns=["document", "page", "pages", "error"])
        except pa.ArrowException as error:
            raise ValueError(error) from error
        yield from table.to_pylist()
    except ValueError as error:
        raise ConfigError(
            f"{shard}: damaged ({error}): remove it; its pages are read again"
        ) from error
