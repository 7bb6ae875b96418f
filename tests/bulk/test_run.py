"""The loop: what is lost is read again, and a run that goes wrong stops."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Mapping
from concurrent.futures import Future
from pathlib import Path
from typing import Any

import pytest

from serving.bulk.inputs import RANGE, Document, Item
from serving.bulk.read import Row, RowError, error_row, page_row
from serving.bulk.run import Progress, run
from serving.bulk.shards import open_output
from serving.errors import EngineError, TooManyErrors, WorkerLost
from serving.types import Page

BROKEN = RowError(code="undecodable", message="no image")


class Counting:
    """Answers each four items, the last one first. A document is named by its number of pages."""

    slots = 4
    settings: Mapping[str, Any] = {}

    def __init__(self, losing: Callable[[Item, int], bool] = lambda item, attempt: False) -> None:
        self.losing = losing
        self.attempts = Counter[tuple[str, int]]()
        self.waiting: list[tuple[Item, Future[list[Row]]]] = []
        self.alone: list[tuple[str, int]] = []

    def submit(self, item: Item) -> Future[list[Row]]:
        self.waiting.append((item, Future()))
        result = self.waiting[-1][1]
        if len(self.waiting) == self.slots:
            self.answer()
        return result

    def answer(self) -> None:
        if len(self.waiting) == 1:
            self.alone.append(self.waiting[0][0].key)
        for item, future in reversed(self.waiting):
            self.attempts[item.key] += 1
            if self.losing(item, self.attempts[item.key]):
                future.set_exception(WorkerLost("killed"))
            else:
                future.set_result(rows_of(item))
        self.waiting.clear()

    def close(self) -> None:
        pass


class Poisoned(Counting):
    """A document whose name has "poison" ends the worker, with all that is on it."""

    def answer(self) -> None:
        poisoned = any("poison" in item.document.name for item, _ in self.waiting)
        self.losing = lambda item, attempt: poisoned
        super().answer()


class Immediate(Counting):
    """Answers each item at once."""

    slots = 1

    def submit(self, item: Item) -> Future[list[Row]]:
        self.waiting.append((item, Future()))
        result = self.waiting[-1][1]
        self.answer()
        return result


def rows_of(item: Item) -> list[Row]:
    name = item.document.name
    if name.startswith("broken"):
        return [error_row(item, BROKEN, "x")]
    count = int(name.split("-")[0])
    pages = range(item.first, min(item.first + RANGE, count))
    return [page_row(item, page, count, Page(1, 1), 1.0, "x") for page in pages]


def read(
    folder: Path,
    names: list[str],
    executor: Any,
    rate: float = 0.0,
    on_progress: Callable[[], None] = lambda: None,
) -> Progress:
    documents = {name: Document(name, name) for name in names}
    with open_output(folder, "jsonl", {}, shard_rows=10) as output:
        return run(
            documents, output, executor, max_error_rate=rate, on_progress=lambda _: on_progress()
        )


def written(folder: Path) -> list[tuple[str, int | None]]:
    rows = [
        json.loads(line)
        for path in sorted(folder.glob("part-*"))
        for line in path.read_text().splitlines()
    ]
    return sorted((row["document"], row["page"]) for row in rows)


def pages(*names: str) -> list[tuple[str, int]]:
    return sorted((name, page) for name in names for page in range(int(name.split("-")[0])))


def test_documents_are_cut_into_ranges_of_pages(tmp_path: Path) -> None:
    names = ["1-a", "30-book", "8-b", "9-c", "1-d"]
    executor = Immediate()
    progress = read(tmp_path, names, executor)
    assert written(tmp_path) == pages(*names)
    assert set(executor.attempts.values()) == {1}
    assert (progress.pages, progress.begun, progress.documents) == (49, 5, 5)
    # The rest of a book comes before the next document.
    assert [key for key in executor.attempts if key[0] != "1-a"][:4] == [
        ("30-book", first) for first in (0, 8, 16, 24)
    ]


def test_an_interrupted_run_keeps_what_was_read_and_goes_on(tmp_path: Path) -> None:
    names = ["30-book", "1-a", "1-b", "9-c"]

    class Ends(Immediate):
        def submit(self, item: Item) -> Future[list[Row]]:
            if item.key == ("1-b", 0):
                raise KeyboardInterrupt
            return super().submit(item)

    with pytest.raises(KeyboardInterrupt):
        read(tmp_path, names, Ends())
    assert written(tmp_path) == pages("30-book", "1-a")
    # A run that was killed has lost what was not committed: here a shard.
    (tmp_path / "part-00001.jsonl").unlink()
    executor = Immediate()
    progress = read(tmp_path, names, executor)
    assert written(tmp_path) == pages(*names)
    assert progress.pages + progress.pages_before == 41
    assert ("30-book", 0) not in executor.attempts


def test_what_was_on_a_lost_worker_is_read_again(tmp_path: Path) -> None:
    names = [f"1-{index}" for index in range(8)]
    executor = Counting(lambda item, attempt: attempt == 1)
    read(tmp_path, names, executor)
    assert written(tmp_path) == pages(*names)
    assert set(executor.attempts.values()) == {2}


def test_a_page_that_ends_every_worker_takes_no_other_with_it(tmp_path: Path) -> None:
    """The items beside it are lost with it, twice; then each is read alone."""

    class Workers(Poisoned):
        def submit(self, item: Item) -> Future[list[Row]]:
            again = self.attempts[item.key] == 2
            future = super().submit(item)
            if again:
                self.answer()
            return future

    names = ["1-a", "1-poison", "1-b", "1-c"]
    executor = Workers()
    progress = read(tmp_path, names, executor, rate=0.5)
    assert progress.errors == {"worker_lost": 1}
    assert progress.first_error == "1-poison: killed"
    assert written(tmp_path) == sorted(
        [*pages("1-a", "1-b", "1-c"), ("1-poison", None)], key=lambda key: key[0]
    )
    assert sorted(executor.alone) == sorted((name, 0) for name in names)


def test_a_page_in_a_book_that_ends_every_worker(tmp_path: Path) -> None:
    executor = Immediate(lambda item, attempt: item.first == 8)
    progress = read(tmp_path, ["20-book"], executor, rate=0.5)
    assert progress.errors == {"worker_lost": 8}
    assert written(tmp_path) == pages("20-book")
    assert executor.attempts[("20-book", 8)] == 3


def test_an_error_of_the_executor_ends_the_run_and_keeps_what_was_read(tmp_path: Path) -> None:
    class Fails(Immediate):
        def submit(self, item: Item) -> Future[list[Row]]:
            future = super().submit(item)
            if item.document.name == "1-b":
                future = Future()
                future.set_exception(EngineError("the plan is gone"))
            return future

    with pytest.raises(EngineError, match="the plan is gone"):
        read(tmp_path, ["1-a", "1-b"], Fails())
    assert written(tmp_path) == pages("1-a")


def test_a_run_that_goes_wrong_stops_and_reads_those_pages_again(tmp_path: Path) -> None:
    names = [f"broken-{index}" for index in range(50)]
    with pytest.raises(TooManyErrors, match=r"5 of 5 pages .*\(5 undecodable\).*broken-0: no im"):
        read(tmp_path, names, Immediate(), rate=0.01)
    assert written(tmp_path) == []
    assert read(tmp_path, names, Immediate(), rate=1).errors == {"undecodable": 50}
    assert len(written(tmp_path)) == 50


def test_a_later_run_knows_the_errors_of_earlier_ones(tmp_path: Path) -> None:
    names = ["1-a", "broken-b", "1-c"]
    assert read(tmp_path, names, Immediate(), rate=1).errors_before == {}
    again = read(tmp_path, [*names, "1-d"], Immediate(), rate=1)
    assert (again.pages, again.pages_before, again.errors) == (1, 3, {})
    assert again.errors_before == {"undecodable": 1}


def test_errors_at_the_allowed_rate_pass_in_any_order(tmp_path: Path) -> None:
    names = [f"broken-{index}" for index in range(4)] + [f"1-{index}" for index in range(396)]
    assert read(tmp_path, names, Immediate(), rate=0.01).errors.total() == 4


def test_nothing_is_read_beside_what_must_be_read_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two documents end the worker, with all that is on it; more come behind the first."""

    monkeypatch.setattr("serving.bulk.run._POLL", 0.01)
    innocent = [f"1-{letter}" for letter in "abcdef"]
    names = ["1-poison1", *innocent[:3], "1-poison2", *innocent[3:]]
    executor = Poisoned()  # answers what it has once nothing more comes
    progress = read(tmp_path, names, executor, rate=0.5, on_progress=executor.answer)
    assert progress.errors == {"worker_lost": 2}
    assert set(pages(*innocent)) <= set(written(tmp_path))
