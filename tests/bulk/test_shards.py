"""The folder that a run writes: what is committed stays, and nothing else."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from pyarrow import parquet

from serving.bulk.inputs import Document, Item
from serving.bulk.read import Row, RowError, error_row, page_row
from serving.bulk.shards import Form, Output, open_output
from serving.errors import ConfigError, DiskError
from serving.types import Line, Page

SETTINGS = {"input": "/in"}
FORMS: tuple[Form, ...] = ("parquet", "jsonl")


def row(name: str, page: int = 0, pages: int = 1, text: str = "字") -> Row:
    line = Line(text, 0.98765, ((1, 2), (3, 2), (3, 4), (1, 4)), turn=180)
    return page_row(Item(Document(name, name)), page, pages, Page(10, 20, (line,)), 1.25, "x@1")


def broken(name: str) -> Row:
    return error_row(Item(Document(name, name)), RowError(code="undecodable", message="no"), "x@1")


def shards(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir() if path.name[0] != "_")


@pytest.mark.parametrize("form", FORMS)
def test_a_killed_run_goes_on_behind_its_last_shard(tmp_path: Path, form: Form) -> None:
    with open_output(tmp_path, form, SETTINGS, shard_rows=3) as output:
        output.add([row("b", page, 20) for page in range(8)])
        output.add([broken("a")])
        output.add([row("lost")])  # not committed
    with open_output(tmp_path, form, SETTINGS, shard_rows=3) as output:
        has = [("b", 0), ("b", 8), ("a", 0), ("lost", 0)]
        assert [output.has(key) for key in has] == [True, False, False, False]
        assert (output.pages, output.counts) == (8, {"b": 20})
        output.add([broken("a")])
        output.commit()
        output.commit()  # of nothing
    assert shards(tmp_path) == [f"part-00000.{form}", f"part-00001.{form}"]
    with open_output(tmp_path, form, SETTINGS, shard_rows=3) as output:
        assert output.has(("a", 0))


def test_both_forms_have_the_same_rows(tmp_path: Path) -> None:
    rows = [row("b"), row("a", 1, 2), row("a", 0, 2, text=""), broken("c")]
    for form in FORMS:
        with open_output(tmp_path / form, form, SETTINGS, shard_rows=100) as output:
            output.add(rows)
            output.commit()
    lines = (tmp_path / "jsonl" / "part-00000.jsonl").read_text("utf-8").splitlines()
    read = [json.loads(line) for line in lines]
    assert [(each["document"], each["page"]) for each in read] == [
        ("a", 0), ("a", 1), ("b", 0), ("c", None),
    ]  # fmt: skip
    assert read[2] == {
        "document": "b", "page": 0, "pages": 1, "width": 10, "height": 20, "angle": 0,
        "text": "字", "ms": 1.2, "pipeline": "x@1", "error": None,
        "lines": [{"text": "字", "score": 0.9877, "box": [[3, 4], [1, 4], [1, 2], [3, 2]]}],
    }  # fmt: skip
    table = parquet.read_table(tmp_path / "parquet")  # what begins with _ is no data
    for known, found in zip(read, table.to_pylist(), strict=True):
        assert found.pop("ms") == pytest.approx(known.pop("ms"))
        for line, other in zip(known["lines"], found["lines"], strict=True):
            assert other.pop("score") == pytest.approx(line.pop("score"))
        assert found == known


def test_another_runs_folder_is_refused(tmp_path: Path) -> None:
    def opened(settings: dict[str, str], form: Form = "parquet", folder: Path = tmp_path) -> None:
        with open_output(folder, form, settings, 1):
            pass

    opened(SETTINGS)
    opened(SETTINGS)
    with pytest.raises(ConfigError, match='another input: "/in", not "/other"'):
        opened({"input": "/other"})
    with pytest.raises(ConfigError, match="another column: null, not"):
        opened({**SETTINGS, "column": "page"})
    with pytest.raises(ConfigError, match='another format: "parquet", not "jsonl"'):
        opened(SETTINGS, "jsonl")
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.tex").touch()
    with pytest.raises(ConfigError, match=r"no run wrote it \(thesis.tex is there\)"):
        opened(SETTINGS, folder=tmp_path / "mine")


def test_two_runs_at_a_time_are_refused(tmp_path: Path) -> None:
    with (
        open_output(tmp_path, "jsonl", SETTINGS, 1),
        pytest.raises(DiskError, match="another run writes it now"),
        open_output(tmp_path, "jsonl", SETTINGS, 1),
    ):
        pass


@pytest.mark.parametrize("form", FORMS)
def test_a_damaged_shard_is_named(tmp_path: Path, form: Form) -> None:
    with open_output(tmp_path, form, SETTINGS, shard_rows=1) as output:
        output.add([row("a")])
    (tmp_path / f"part-00000.{form}").write_bytes(b"{")
    with (
        pytest.raises(ConfigError, match=rf"part-00000.{form}: damaged .*; its pages are read"),
        open_output(tmp_path, form, SETTINGS, shard_rows=1),
    ):
        pass


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    folder = tmp_path / "small"
    folder.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", str(folder)]
    if os.geteuid() or subprocess.run(command, capture_output=True).returncode:
        pytest.skip("only root may mount")
    yield folder
    subprocess.run(["umount", "-l", str(folder)], check=True)


def test_a_full_disk_is_said_and_can_be_resumed(small_disk: Path) -> None:
    def filled(output: Output) -> None:
        for index in range(10):
            output.add([row(f"{index}", text=os.urandom(8000).hex())])

    with (
        pytest.raises(DiskError, match=r"the disk is full .*; nothing half done was kept"),
        open_output(small_disk, "jsonl", SETTINGS, shard_rows=1) as output,
    ):
        filled(output)
    kept = shards(small_disk)
    assert kept and all(name.startswith("part-") for name in kept)
    with open_output(small_disk, "jsonl", SETTINGS, shard_rows=1) as output:
        assert output.pages == len(kept)
        assert [output.has((f"{index}", 0)) for index in range(len(kept) + 1)] == [
            *[True] * len(kept),
            False,
        ]
