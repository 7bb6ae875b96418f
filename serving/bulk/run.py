"""The loop of a run: items go to an executor, their rows to the output."""

from __future__ import annotations

import logging
import math
import time
from collections import Counter, deque
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import FIRST_COMPLETED, Future, wait
from dataclasses import dataclass, field
from typing import Any, Protocol

from serving.bulk.inputs import RANGE, Document, Item
from serving.bulk.read import Row, error_rows, row_error
from serving.bulk.shards import Output
from serving.errors import DiskError, TooManyErrors, WorkerLost

_LOG = logging.getLogger(__name__)

_ATTEMPTS = 3
"""Workers that may end while they read an item. The last attempt is made alone: other items that
were read beside one that ends every worker are not at fault."""
_POLL = 1.0
"""Seconds after which progress is shown and the executor's slots are looked at again."""
_FEW = 100
"""Fewer pages than these are too few to tell a rate of errors."""


class Executor(Protocol):
    """What reads items: on this machine, on a cluster, or on running servers."""

    @property
    def settings(self) -> Mapping[str, Any]:
        """What the text of its rows depends on, as plain values."""

    @property
    def slots(self) -> int:
        """How many items it may have at a time; may change."""

    def submit(self, item: Item) -> Future[list[Row]]:
        """Read an item. The future raises WorkerLost where another attempt may succeed; any other
        error ends the run.
        """

    def close(self) -> None:
        """Give back what was held; items that are being read are dropped."""


@dataclass(slots=True)
class Progress:
    """How far a run is."""

    documents: int
    """In the input."""
    before: int
    """Documents and ..."""
    pages_before: int
    """... pages that an earlier run has read."""
    begun: int = 0
    """Documents of which this run has the first pages."""
    pages: int = 0
    """Read by this run, with those that could not be read."""
    errors_before: Counter[str] = field(default_factory=Counter)
    """Of these pages, by code."""
    errors: Counter[str] = field(default_factory=Counter)
    """Of this run, by code; a document that does not open is one."""
    first_error: str = ""
    start: float = field(default_factory=time.monotonic)

    @property
    def seconds(self) -> float:
        """Since the start."""
        return time.monotonic() - self.start

    @property
    def seconds_left(self) -> float | None:
        """Judged by documents; None before the first one."""
        left = self.documents - self.before - self.begun
        return self.seconds * left / self.begun if self.begun else None


def run(
    documents: Mapping[str, Document],
    output: Output,
    executor: Executor,
    *,
    max_error_rate: float,
    on_progress: Callable[[Progress], None],
) -> Progress:
    """Read what `output` does not have yet, and commit it.

    max_error_rate: of pages, 0 to 1. Once chance cannot explain more errors, the run stops with
    TooManyErrors; the shard in work is dropped, so that a resumed run reads its pages again.
    on_progress: called about once a second. Raises DiskError, and what the executor raises.
    """
    before = sum(output.has((name, 0)) for name in documents)
    progress = Progress(len(documents), before, output.pages, errors_before=+output.errors)
    queue = _Queue(documents, output)
    pending: dict[Future[list[Row]], Item] = {}
    try:
        while True:
            while len(pending) < executor.slots and (item := queue.pop(alone=not pending)):
                pending[executor.submit(item)] = item
            if not pending:
                if not queue.has_more:
                    break
                time.sleep(_POLL)  # no worker is there yet
            done, _ = wait(pending, _POLL, FIRST_COMPLETED)
            for future in done:
                item = pending.pop(future)
                try:
                    rows = future.result()
                except WorkerLost as error:
                    if queue.again(item):
                        _LOG.warning("%s; read again: %s#%d", error, *item.key)
                        continue
                    rows = error_rows(item, row_error(error), "")
                queue.add_rest(item, rows)
                _count(progress, item, rows)
                output.add(rows)
                _check(progress, max_error_rate)
            on_progress(progress)
    except (DiskError, TooManyErrors):
        raise
    except BaseException:
        output.commit()
        raise
    output.commit()
    return progress


class _Queue:
    """Items in the order of the input; the rest of a document comes before the next one."""

    def __init__(self, documents: Mapping[str, Document], output: Output) -> None:
        self._output = output
        self._first = (Item(each) for each in documents.values() if not output.has((each.name, 0)))
        self._later: deque[Item] = deque()
        self._alone: deque[Item] = deque()
        self._reads_alone = False
        """Whether the item in work is one of these."""
        self._attempts = Counter[tuple[str, int]]()
        for name, count in output.counts.items():
            if name in documents:
                self._later += self._rest(documents[name], count)
        self.has_more = True

    def pop(self, *, alone: bool) -> Item | None:
        """The next item; None where there is none, or it or the one in work must be read alone.

        alone: whether nothing is in work.
        """
        if not alone and (self._reads_alone or self._alone):
            return None
        self._reads_alone = bool(self._alone)
        if self._alone:
            return self._alone.popleft()
        item = self._later.popleft() if self._later else next(self._first, None)
        self.has_more = item is not None
        return item

    def again(self, item: Item) -> bool:
        """Put an item back whose worker was lost; False where that has happened too often."""
        self._attempts[item.key] += 1
        left = _ATTEMPTS - self._attempts[item.key]
        if left:
            (self._later if left > 1 else self._alone).append(item)
            self.has_more = True
        return left > 0

    def add_rest(self, item: Item, rows: list[Row]) -> None:
        """Add the other ranges of pages of a document whose first has been read."""
        if not item.first and (rows[0]["pages"] or 0) > RANGE:
            self._later += self._rest(item.document, rows[0]["pages"] or 0)
            self.has_more = True

    def _rest(self, document: Document, count: int) -> Iterator[Item]:
        for first in range(RANGE, count, RANGE):
            if not self._output.has((document.name, first)):
                yield Item(document, first, count)


def _count(progress: Progress, item: Item, rows: list[Row]) -> None:
    progress.begun += not item.first
    progress.pages += len(rows)
    for row in rows:
        if error := row["error"]:
            progress.errors[error["code"]] += 1
            where, message = row["document"], error["message"]
            where = where if row["page"] is None else f"{where}#{row['page']}"
            said = message if row["document"] in message else f"{where}: {message}"
            progress.first_error = progress.first_error or said


def _check(progress: Progress, max_error_rate: float) -> None:
    """Raise TooManyErrors where chance alone would rarely give so many errors at that rate."""
    expected = max_error_rate * max(progress.pages, _FEW)
    errors = progress.errors.total()
    if errors > expected + 3 * math.sqrt(expected):
        kinds = ", ".join(f"{count} {code}" for code, count in progress.errors.most_common())
        raise TooManyErrors(
            f"stopped: {errors} of {progress.pages} pages could not be read ({kinds}), and "
            f"--max-error-rate is {max_error_rate:g}. The first: {progress.first_error}. When that "
            "is fixed, the same command resumes; a higher --max-error-rate lets errors pass"
        )
