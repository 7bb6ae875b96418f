"""Systems are measured in turn, and what follows from the figures; on fakes with fixed times."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import cv2
import pytest
from click.testing import CliRunner

from benchmarks.__main__ import main
from benchmarks.compare import Comparison, Throughput, measure, results, throughput, word_f1
from benchmarks.profile import Efficiency, Overhead, Profile, Stage
from benchmarks.rendered import rendered_pages
from benchmarks.report import comparison_tables, write_comparison
from benchmarks.systems import ConcurrentReading, Reading, Setup
from serving.errors import EngineError
from serving.evaluate.labels import LabelledPage


class FakeSystem:
    """Reads every page as `texts`; its calls take `ms` one after the other, and are noted."""

    def __init__(
        self,
        name: str,
        ms: Sequence[float],
        texts: Sequence[str] = (),
        calls: list[str] | None = None,
        concurrent: Sequence[ConcurrentReading | EngineError] = (),
        setup: Setup = "same",
        model: str = "",
    ) -> None:
        self.name, self.setup, self.model = name, setup, model
        self._ms, self._texts, self._calls = iter(ms), tuple(texts), calls
        self._concurrent = iter(concurrent)

    def read(self, image: Path) -> Reading:
        if self._calls is not None:
            self._calls.append(f"{self.name}:{image.name}")
        return Reading(self._texts, next(self._ms), 100)

    def read_concurrently(self, images: Sequence[Path], callers: int) -> ConcurrentReading:
        reading = next(self._concurrent)
        if isinstance(reading, EngineError):
            raise reading
        return reading


def fakes(*systems: FakeSystem) -> Any:
    """As the systems that they stand in for."""
    return list(systems)


def pages(*names: str, dataset: str = "set") -> list[LabelledPage]:
    return [LabelledPage(dataset, Path(name), ("a b",)) for name in names]


def test_rendered_pages_are_files_with_truth(tmp_path: Path) -> None:
    rendered = rendered_pages(tmp_path, count=2)
    assert [page.group for page in rendered] == ["rendered, clean", "rendered, degraded"]
    assert all(page.path.stat().st_size > 1000 and page.texts for page in rendered)


def test_systems_read_in_turn_in_rotating_order() -> None:
    calls: list[str] = []
    ours = FakeSystem("ours", [9, 10, 20], calls=calls)
    peer = FakeSystem("peer", [9, 30, 40], calls=calls)
    found = measure(fakes(ours, peer), pages("1", "2"), warm_up=1, pause=0, wake=False)
    assert calls == ["ours:1", "peer:1", "ours:1", "peer:1", "peer:2", "ours:2"]
    assert [(m.system, m.page.path.name, m.ms) for m in found] == [
        ("ours", "1", 10),
        ("ours", "2", 20),
        ("peer", "1", 30),
        ("peer", "2", 40),
    ]


def test_each_wakes_up_on_the_page_before() -> None:
    calls: list[str] = []
    ours, peer = (FakeSystem(name, [1, 2, 3, 4], calls=calls) for name in ("ours", "peer"))
    found = measure(fakes(ours, peer), pages("1", "2"), warm_up=0, pause=0)
    assert calls[:4] == ["ours:1", "ours:1", "peer:1", "peer:1"]
    assert calls[4:] == ["peer:1", "peer:2", "ours:1", "ours:2"]
    assert [m.ms for m in found] == [2, 4, 2, 4]


def test_the_first_round_is_apart_and_the_others_give_the_median() -> None:
    ours = FakeSystem("ours", [90, 30, 10, 20])
    (found,) = measure(fakes(ours), pages("1"), rounds=4, warm_up=0, pause=0, wake=False)
    assert (found.first_ms, found.ms) == (90, 20)


def test_every_dataset_is_warmed_up() -> None:
    calls: list[str] = []
    ours = FakeSystem("ours", [1] * 5, calls=calls)
    both = [*pages("1", "2"), *pages("3", dataset="other")]
    measure(fakes(ours), both, warm_up=1, pause=0, wake=False)
    assert calls[:2] == ["ours:1", "ours:3"]


def comparison() -> Comparison:
    """Two pages, by ours and by a peer with its own defaults."""
    ours = FakeSystem("ours", [10, 100], ["a b"])
    peer = FakeSystem("peer", [30, 100], ["a", "x"], setup="default")
    found = measure(fakes(ours, peer), pages("1", "2"), warm_up=0, pause=0, wake=False)
    return Comparison(results(found, {"ours": 1500, "peer": 2500}), found)


def test_ratios_are_taken_page_by_page() -> None:
    ours, peer = comparison().results
    assert (ours.system, ours.ratio_median, ours.token_f1) == ("ours", 1, 100)
    assert (peer.setup, peer.system, peer.start_ms) == ("default", "peer", 2500)
    assert peer.ratio_median == pytest.approx(2)
    assert (peer.ratio_p25, peer.ratio_p75) == pytest.approx((1.5, 2.5))
    assert peer.token_f1 == pytest.approx(50)
    assert peer.character_f1 == pytest.approx(50)


def test_ratios_and_a_table_by_model(tmp_path: Path) -> None:
    """Each system beside ours with the same model, whichever is read first."""
    systems = [
        FakeSystem("ours, A", [10, 10], ["a b"], model="A"),
        FakeSystem("peer, A", [30, 10], ["a b"], model="A"),
        FakeSystem("ours, B", [2, 4], ["a b"], model="B"),
        FakeSystem("peer, B", [8, 16], ["a b"], model="B"),
    ]
    found = measure(fakes(*systems), pages("1", "2"), warm_up=0, pause=0, wake=False)
    rows = results(found, {system.name: 0 for system in systems})
    assert [(row.model, row.ratio_median) for row in rows] == [
        ("A", 1), ("A", 2), ("B", 1), ("B", 4),
    ]  # fmt: skip
    compared = Comparison(rows, found, graphs_mb={"A": 12.34, "B": 1})
    table = comparison_tables(compared)[0]
    assert [row[:3] for row in table.rows] == [
        ("A", "12.3", "ours"), ("A", "12.3", "peer"), ("B", "1.0", "ours"), ("B", "1.0", "peer"),
    ]  # fmt: skip
    assert table.rows[3][4:] == ("12 (4.00)", "100.00, 100.00, 100.00")
    data = json.loads(write_comparison(tmp_path, compared, {"machine": "here"})[0].read_text())
    assert data["graphs_mb"]["A"] == 12.34
    assert data["results"][3]["model"] == "B"


def test_words_are_sets_of_lower_cased_latin_tokens() -> None:
    assert word_f1(["Total: 12 12", "a"], ["TOTAL 12.", "x y"]) == 1
    assert word_f1(["one two"], ["one"]) == pytest.approx(2 / 3)
    assert word_f1(["中文"], []) == 1  # nothing to find, nothing found
    # The mean over pages, where the other figures add up counts first.
    two = [LabelledPage("s", Path("1"), ("aa",)), LabelledPage("s", Path("2"), ("bb cc dd",))]
    found = measure(fakes(FakeSystem("ours", [1, 1], ["aa"])), two, warm_up=0, pause=0, wake=False)
    assert results(found, {"ours": 0})[0].word_f1 == 50


def test_a_report_is_json_markdown_and_a_chart(tmp_path: Path) -> None:
    overhead = Overhead(ms=4.2, megapixels=0.5, lines=2)
    efficiency = Efficiency("TextDetection", "engine", gmac_per_page=3.8, rate=30, product_rate=60)
    found = replace(
        comparison(),
        throughput=[Throughput("set", "ours", 4, 2.5, 1), Throughput("set", "peer", 4, 0, 0, "no")],
        profiles=[Profile("set", "P", (Stage("decode", 1.25),), (efficiency,), overhead)],
        versions={"ours": "1.2"},
    )
    files = write_comparison(tmp_path / "new", found, {"machine": "here"})
    data = json.loads(files[0].read_text())
    assert data["facts"] == {"machine": "here", "ours": "1.2"}
    assert [page["ms"] for page in data["pages"]] == [10, 100, 30, 100]
    assert data["results"][1]["system"] == "peer"
    assert data["profiles"][0]["overhead"]["share"] == pytest.approx(1)
    assert data["profiles"][0]["efficiency"][0]["share"] == pytest.approx(0.5)
    text = files[1].read_text()
    for cell in ("| 2.00 (1.50 to 2.50) |", "| 2.50 | 1 |", "fails: no", "| 1.2 |", "100 %"):
        assert cell in text
    assert "machine: here" in text
    picture = cv2.imread(str(files[2]))
    assert picture.shape[0] > 200
    assert picture[:2].min() == 255  # on white
    for table in comparison_tables(found):
        assert {len(row) for row in table.rows} == {len(table.columns)}


def test_throughput_counts_pages_whose_text_changes_and_survives_a_system_that_dies() -> None:
    equal = ConcurrentReading((("a",), ("a",)), 500.0)
    changed = ConcurrentReading((("a",), ("b",)), 250.0)
    ours = FakeSystem("ours", [5, 5], ["a"], concurrent=[equal, changed])
    peer = FakeSystem("peer", [5, 5], ["a"], concurrent=[EngineError("died")])
    two = pages("1", "2")
    alone = measure(fakes(ours, peer), two, warm_up=0, pause=0, wake=False)
    found = throughput(fakes(ours, peer), two, alone, (1, 2), pause=0)
    assert [(f.system, f.callers, f.pages_per_second, f.changed, f.error) for f in found] == [
        ("ours", 1, 4, 0, ""),
        ("peer", 1, 0, 0, "died"),
        ("ours", 2, 8, 1, ""),
        ("peer", 2, 0, 0, "died"),
    ]


def test_the_command_says_what_is_wrong_with_the_data(tmp_path: Path) -> None:
    result = CliRunner().invoke(main, ["compare", "--data", str(tmp_path / "absent")])
    assert result.exit_code == 1
    assert result.output.startswith("Error: --data")
    assert "no such file or folder" in result.output


@pytest.mark.parametrize("text", ["0", "1,x", "1,,2", ""])
def test_concurrency_is_numbers(text: str) -> None:
    result = CliRunner().invoke(main, ["compare", "--concurrency", text])
    assert result.exit_code == 2
    assert "for example 1,4" in result.output


def test_a_missing_matplotlib_is_reported_before_the_work(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    result = CliRunner().invoke(main, ["compare", "--data", "absent"])
    assert result.exit_code == 1
    assert "the chart needs matplotlib" in result.output
