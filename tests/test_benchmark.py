from __future__ import annotations

import json
import sys
from pathlib import Path

import click
import pytest
from click.testing import CliRunner

from serving.benchmark.contender import Contender, Reading, Spec
from serving.benchmark.evaluate import Score
from serving.benchmark.labelled import LabelledPage, labelled_pages, rendered_pages
from serving.benchmark.measure import measure, median, warm_up_pages
from serving.benchmark.report import HEAD, cells, markdown, rows, write
from serving.cli import benchmark, evaluate
from serving.errors import ConfigError, EngineError
from serving.scores import Overlap


def label(folder: Path, name: str = "a.png", text: str = "Total 5") -> None:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / name).write_bytes(b"")
    truth = [{"image": name, "lines": [{"text": text}]}]
    (folder / "truth.json").write_text(json.dumps(truth), encoding="utf-8")


class Told:
    """Stands in for a child process: takes as long as it is told to."""

    def __init__(self, name: str, ms: list[float], texts: tuple[str, ...], seen: list[str]) -> None:
        self.name, self._ms, self._texts, self._seen = name, iter(ms), texts, seen

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
    ours = Told("ours", [9, 10, 20], (), seen)
    peer = Told("peer", [9, 30, 40], (), seen)
    found = measure([ours, peer], pages("1", "2"), warm_up=1)  # type: ignore[list-item]
    assert seen == ["ours:1", "peer:1", "ours:1", "peer:1", "peer:2", "ours:2"]
    assert [(m.contender, m.page.path.name, m.ms) for m in found] == [
        ("ours", "1", 10),
        ("ours", "2", 20),
        ("peer", "1", 30),
        ("peer", "2", 40),
    ]


def test_rounds_give_the_median_and_warm_up_is_by_set() -> None:
    ours = Told("ours", [30, 10, 20], (), [])
    (found,) = measure([ours], pages("1"), rounds=3, warm_up=0)  # type: ignore[list-item]
    assert found.ms == 20
    assert median([1, 3]) == 2
    two = [*pages("1", "2"), LabelledPage("other", Path("3"), ())]
    assert [page.path.name for page in warm_up_pages(two, 1)] == ["1", "3"]


def test_report_takes_ratios_image_by_image(tmp_path: Path) -> None:
    ours = Told("ours", [10, 100], ("a b",), [])
    peer = Told("peer", [30, 100], ("a", "x"), [])
    found = measure([ours, peer], pages("1", "2"), warm_up=0)  # type: ignore[list-item]
    first, second = rows(found)
    assert (first.contender, first.ratio_median, first.token_f1) == ("ours", 1, 100)
    assert second.ratio_median == pytest.approx(2)
    assert second.token_f1 == pytest.approx(50)
    assert second.character_f1 == pytest.approx(50)
    assert len(cells(second)) == len(HEAD)
    write(tmp_path / "new", found, [first, second], {"machine": "here"})
    data = json.loads((tmp_path / "new" / "benchmark.json").read_text())
    assert [page["ms"] for page in data["pages"]] == [10, 100, 30, 100]
    assert data["rows"][1]["contender"] == "peer"
    assert (tmp_path / "new" / "benchmark.md").read_text() == markdown(
        [first, second], {"machine": "here"}
    )


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
