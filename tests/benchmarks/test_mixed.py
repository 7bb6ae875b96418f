"""Mixed load: a real server with three pipelines, and how its figures are judged."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
from click.testing import CliRunner

from benchmarks.__main__ import main
from benchmarks.mixed import KINDS, MixedLoad, Row, mixed_load
from benchmarks.report import mixed_table, write_mixed_load
from benchmarks.serve import open_loop

PIPELINE = Path("configs/PP-OCRv4_mobile.yaml")


def test_three_pipelines_in_one_server(repo: Path, unwarmed: Path, tmp_path: Path) -> None:
    few = {"small images": 6, "pages": 4, "long documents": 3}
    found = mixed_load(
        [repo / PIPELINE] * 3, unwarmed, tmp_path, seconds=3, calls=few, document_pages=2
    )
    assert [(row.kind, row.pipeline) for row in found.rows[2:]] == [
        (kind, f"{number}-PP-OCRv4_mobile") for number, kind in enumerate(KINDS)
    ]
    for row in found.rows:
        assert row.figures.accepted > 0
        assert row.figures.failed == row.figures.refused == 0
    small = found.rows[0].figures, found.rows[2].figures
    assert small[1].rate == pytest.approx(small[0].rate / 3)
    assert found.delay > 0


def load(last_small: float, documents: int = 200) -> MixedLoad:
    """Small images that take 100 ms alone and `last_small` seconds in the mix, beside documents."""

    def row(load: str, kind: str, seconds: float, status: int = 200) -> Row:
        calls = [[float(due), float(due), due + seconds, status] for due in range(10)]
        answer = {"calls": calls, "cpu": 1.0, "wall": 10.0, "files": 1}
        return Row(load, kind, "P", 0.7, open_loop(kind, 1.0, 10.0, answer, ()))

    small, pages, long = KINDS
    return MixedLoad(
        [
            row("alone", small, 0.1),
            row("alone, at its rate in the mix", small, 0.05),
            row("mixed", small, last_small),
            row("mixed", pages, 1.0),
            row("mixed", long, 1.0, documents),
        ]
    )


def test_the_delay_is_of_small_images_both_times_at_the_same_load(tmp_path: Path) -> None:
    found = load(0.15)
    assert found.delay == pytest.approx(1.5)
    assert found.starved == []
    table = mixed_table(found)
    assert "1.50 times" in table.title
    assert "nothing starves" in table.title
    assert {len(row) for row in table.rows} == {len(table.columns)}
    files = write_mixed_load(tmp_path, found, {"machine": "here"})
    assert json.loads(files[0].read_text())["delay"] == pytest.approx(1.5)


def test_what_fails_or_falls_behind_starves() -> None:
    assert load(0.15, documents=429).starved == ["long documents"]
    assert load(0.15, documents=0).starved == ["long documents"]
    assert load(9.0).starved == ["small images"]
    unanswered = replace(load(0.15).rows[2].figures, accepted_p99=None)
    rows = [*load(0.15).rows]
    rows[2] = replace(rows[2], figures=unanswered)
    assert MixedLoad(rows).delay == float("inf")


def test_a_pipeline_for_each_kind_is_needed() -> None:
    done = CliRunner().invoke(main, ["mixed", "--pipeline", str(PIPELINE)])
    assert done.exit_code == 2
    assert "long documents" in done.output
