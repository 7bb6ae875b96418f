from __future__ import annotations

import json
import sys
from dataclasses import replace
from pathlib import Path

import click
import cv2
import pytest
from click.testing import CliRunner

from benchmarks import cli_compare as benchmark
from benchmarks.contender import Contender, Crowd, Reading, Spec, Table
from benchmarks.measure import measure, median, warm_up_pages
from benchmarks.profile import Efficiency, Outside, Profile, Stage
from benchmarks.rendered import rendered_pages
from benchmarks.report import Report, rows, write
from benchmarks.tables import grids, markdown
from benchmarks.throughput import Throughput, throughput
from serving.cli import evaluate
from serving.errors import ConfigError, EngineError
from serving.evaluate import LabelledPage, Score, labelled_pages
from serving.scores import Overlap


def label(folder: Path, name: str = "a.png", text: str = "Total 5") -> None:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / name).write_bytes(b"\x89PNG\r\n\x1a\n")
    truth = [{"image": name, "lines": [{"text": text}]}]
    (folder / "truth.json").write_text(json.dumps(truth), encoding="utf-8")


class ObservedEngine:
    """Stands in for a child process: takes as long as it is told to."""

    def __init__(self, name: str, ms: list[float], texts: tuple[str, ...], seen: list[str]) -> None:
        self.name, self._ms, self._texts, self._seen = name, iter(ms), texts, seen
        self.table: Table = "same"

    def read(self, image: Path) -> Reading:
        self._seen.append(f"{self.name}:{image.name}")
        return Reading(self._texts, next(self._ms), 100)


def pages(*names: str) -> list[LabelledPage]:
    return [LabelledPage("set", Path(name), ("a b",)) for name in names]


def test_labelled_folders_one_or_several(tmp_path: Path) -> None:
    label(tmp_path / "forms", text="A")
    label(tmp_path / "receipts", "b.png", "B")
    both = labelled_pages(tmp_path)
    assert [(page.group, page.texts) for page in both] == [("forms", ("A",)), ("receipts", ("B",))]
    assert labelled_pages(tmp_path / "forms") == both[:1]
    assert labelled_pages(tmp_path, ["receipts"]) == both[1:]


def test_what_is_no_image_is_left_out_and_told(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    label(tmp_path / "forms", text="A")
    label(tmp_path / "arrays", "b.npy", "B")
    (tmp_path / "arrays" / "b.npy").write_bytes(b"\x93NUMPY\x01\x00")
    assert [page.texts for page in labelled_pages(tmp_path)] == [("A",)]
    assert "b.npy is left out: not a format that this reads" in caplog.text
    with pytest.raises(ConfigError, match="no image or document in it"):
        labelled_pages(tmp_path / "arrays")


def test_what_is_wrong_with_a_labelled_folder_is_said(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"no truth\.json"):
        labelled_pages(tmp_path)
    with pytest.raises(ConfigError, match="no such folder"):
        labelled_pages(tmp_path / "absent")
    label(tmp_path / "forms")
    with pytest.raises(ConfigError, match="receipts"):
        labelled_pages(tmp_path, ["receipts"])
    (tmp_path / "forms" / "a.png").unlink()
    with pytest.raises(ConfigError, match=r"a\.png"):
        labelled_pages(tmp_path)
    (tmp_path / "forms" / "truth.json").write_text('[{"picture": 1}]')
    with pytest.raises(ConfigError, match=r"truth\.json.*KeyError"):
        labelled_pages(tmp_path)


def test_rendered_pages_are_files_with_truth(tmp_path: Path) -> None:
    rendered = rendered_pages(tmp_path, count=2)
    assert [page.group for page in rendered] == ["rendered, clean", "rendered, degraded"]
    assert all(page.path.stat().st_size > 1000 and page.texts for page in rendered)


def test_every_contender_in_turn_in_rotating_order() -> None:
    seen: list[str] = []
    ours = ObservedEngine("ours", [9, 10, 20], (), seen)
    peer = ObservedEngine("peer", [9, 30, 40], (), seen)
    found = measure([ours, peer], pages("1", "2"), warm_up=1, pause=0)  # type: ignore[list-item]
    assert seen == ["ours:1", "peer:1", "ours:1", "peer:1", "peer:2", "ours:2"]
    assert [(m.contender, m.page.path.name, m.ms) for m in found] == [
        ("ours", "1", 10),
        ("ours", "2", 20),
        ("peer", "1", 30),
        ("peer", "2", 40),
    ]


def test_rounds_after_the_first_give_the_median_and_warm_up_is_by_set() -> None:
    ours = ObservedEngine("ours", [90, 30, 10, 20], (), [])
    (found,) = measure([ours], pages("1"), rounds=4, warm_up=0, pause=0)  # type: ignore[list-item]
    assert (found.first_ms, found.ms) == (90, 20)
    assert median([1, 3]) == 2
    two = [*pages("1", "2"), LabelledPage("other", Path("3"), ())]
    assert [page.path.name for page in warm_up_pages(two, 1)] == ["1", "3"]


def report(own: Table = "own") -> Report:
    ours = ObservedEngine("ours", [10, 100], ("a b",), [])
    peer = ObservedEngine("peer", [30, 100], ("a", "x"), [])
    peer.table = own
    found = measure([ours, peer], pages("1", "2"), warm_up=0, pause=0)  # type: ignore[list-item]
    return Report({"machine": "here"}, rows(found, {"ours": 1500, "peer": 2500}), found)


def test_report_takes_ratios_image_by_image() -> None:
    first, second = report().rows
    assert (first.contender, first.ratio_median, first.token_f1) == ("ours", 1, 100)
    assert (second.table, second.contender, second.start_ms) == ("own", "peer", 2500)
    assert second.ratio_median == pytest.approx(2)
    assert (second.ratio_p25, second.ratio_p75) == pytest.approx((1.5, 2.5))
    assert second.token_f1 == pytest.approx(50)
    assert second.character_f1 == pytest.approx(50)


def test_report_is_written_as_json_markdown_and_a_chart(tmp_path: Path) -> None:
    outside = Outside(ms=4.2, megapixels=0.5, lines=2)
    share = Efficiency("TextDetection", "engine", gmac_a_page=3.8, rate=30, product_rate=60)
    found = replace(
        report(),
        throughput=[Throughput("set", "ours", 4, 2.5, 1), Throughput("set", "peer", 4, 0, 0, "no")],
        profiles=[Profile("set", "P", (Stage("decode", 1.25),), (share,), outside)],
    )
    files = write(tmp_path / "new", found)
    data = json.loads(files[0].read_text())
    assert [page["ms"] for page in data["pages"]] == [10, 100, 30, 100]
    assert data["rows"][1]["contender"] == "peer"
    assert data["profiles"][0]["outside"]["share"] == pytest.approx(1)
    assert data["profiles"][0]["efficiency"][0]["share"] == pytest.approx(0.5)
    text = files[1].read_text()
    assert text == markdown(found)
    for cell in ("| 2.00 (1.50 to 2.50) |", "| 2.50 | 1 differ |", "fails: no", "| 1.2 |", "100 %"):
        assert cell in text
    assert "machine: here" in text
    picture = cv2.imread(str(files[2]))
    assert picture.shape[0] > 200
    assert picture[:2].min() == 255  # on white


def test_every_table_has_as_many_heads_as_cells() -> None:
    for grid in grids(report()):
        assert {len(row) for row in grid.rows} == {len(grid.head)}


class AtOnce(ObservedEngine):
    """Reads in batch_trial as it is told to."""

    def __init__(self, name: str, crowds: list[Crowd | EngineError]) -> None:
        super().__init__(name, [5, 5], ("a",), [])
        self._crowds = iter(crowds)

    def read_at_once(self, images: list[Path], callers: int) -> Crowd:
        answer = next(self._crowds)
        if isinstance(answer, EngineError):
            raise answer
        return answer


def test_callers_side_by_side() -> None:
    two = pages("1", "2")
    whole, torn = Crowd((("a",), ("a",)), 500.0), Crowd((("a",), ("b",)), 250.0)
    ours, peer = AtOnce("ours", [whole, torn]), AtOnce("peer", [EngineError("died")])
    alone = measure([ours, peer], two, warm_up=0, pause=0)  # type: ignore[list-item]
    found = throughput([ours, peer], two, alone, (1, 2), pause=0)  # type: ignore[list-item]
    figures = [(f.contender, f.callers, f.pages_per_second, f.differing, f.failed) for f in found]
    assert figures == [
        ("ours", 1, 4, 0, ""),
        ("peer", 1, 0, 0, "died"),
        ("ours", 2, 8, 1, ""),
        ("peer", 2, 0, 0, "died"),  # and was not asked again
    ]


def test_a_child_that_dies_says_why(tmp_path: Path) -> None:
    spec = Spec("ours", "ours", Path(sys.executable), {"yaml": "absent.yaml", "models": "."})
    with pytest.raises(EngineError, match=r"ours ended with code 1: .*absent\.yaml"):
        Contender(spec)


def test_scores_add_up() -> None:
    one = Score(1, Overlap(1, 2, 2), Overlap(3, 4, 4))
    assert one + Score() == one
    assert (one + one).tokens == Overlap(2, 4, 4)


@pytest.mark.parametrize("command", [benchmark.command, evaluate.command])
def test_commands_say_what_is_wrong_with_the_data(command: click.Command, tmp_path: Path) -> None:
    assert CliRunner().invoke(command, ["--help"]).exit_code == 0
    pipeline = ["x.yaml"] if command is evaluate.command else []
    result = CliRunner().invoke(command, [*pipeline, "--data", str(tmp_path / "absent")])
    assert isinstance(result.exception, ConfigError)
    assert "no such folder" in str(result.exception)


@pytest.mark.parametrize("text", ["0", "1,x", "1,,2", ""])
def test_concurrency_is_numbers(text: str) -> None:
    result = CliRunner().invoke(benchmark.command, ["--concurrency", text])
    assert result.exit_code == 2
    assert "for example 1,4" in result.output
