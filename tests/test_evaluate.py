"""Labelled pages, and the scores of a pipeline on them."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.testing import CliRunner

from serving.cli import main
from serving.errors import ConfigError
from serving.evaluate import TOTAL, Score, evaluate, labelled_pages
from serving.scores import Overlap


def label(folder: Path, name: str = "a.png", text: str = "Total 5") -> None:
    """A labelled folder of one file, which begins as a PNG does."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / name).write_bytes(b"\x89PNG\r\n\x1a\n")
    truth = [{"image": name, "lines": [{"text": text}]}]
    (folder / "truth.json").write_text(json.dumps(truth), encoding="utf-8")


def test_one_labelled_folder_or_several(tmp_path: Path) -> None:
    label(tmp_path / "forms", text="A")
    label(tmp_path / "receipts", "b.png", "B")
    both = labelled_pages(tmp_path)
    assert [(page.group, page.texts) for page in both] == [("forms", ("A",)), ("receipts", ("B",))]
    assert labelled_pages(tmp_path / "forms") == both[:1]
    assert labelled_pages(tmp_path, ["receipts"]) == both[1:]


def test_files_that_are_no_images_are_left_out_with_a_warning(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    label(tmp_path / "forms", text="A")
    label(tmp_path / "arrays", "b.npy", "B")
    (tmp_path / "arrays" / "b.npy").write_bytes(b"\x93NUMPY\x01\x00")
    assert [page.texts for page in labelled_pages(tmp_path)] == [("A",)]
    assert "b.npy" in caplog.text
    with pytest.raises(ConfigError, match="no supported image or document"):
        labelled_pages(tmp_path / "arrays")


def test_an_error_names_what_is_wrong_with_a_labelled_folder(tmp_path: Path) -> None:
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


def test_scores_add_up() -> None:
    one = Score(1, Overlap(1, 2, 2), Overlap(3, 4, 4), 1, 4)
    assert one + Score() == one
    assert (one + Score(1, edits=1, length=12)).order == 2 / 16
    assert (one + one).tokens == Overlap(2, 4, 4)


def test_a_pipeline_is_scored_by_dataset_and_in_all(
    repo: Path, built: Path, tmp_path: Path
) -> None:
    for name, text in (("one", "The Northgate Bakery"), ("two", "Qx Qx Qx Qx")):
        label(tmp_path / name, "page.jpg", text)
        (tmp_path / name / "page.jpg").write_bytes((repo / "docs/page.jpg").read_bytes())
    yaml = repo / "configs/PP-OCRv4_mobile.yaml"
    scores = evaluate(yaml, labelled_pages(tmp_path), built)
    assert scores["one"].characters.recall == 1
    assert scores["two"].order > scores["one"].order > 0
    assert scores["two"].tokens.common == 0
    assert scores[TOTAL] == scores["one"] + scores["two"]


def test_the_command_says_what_is_wrong_with_the_data(tmp_path: Path) -> None:
    result = CliRunner().invoke(main, ["evaluate", "x.yaml", "--data", str(tmp_path / "absent")])
    assert result.exit_code == 1
    assert "no such folder" in result.output
