"""`ocr-hpi evaluate`: a deploy script is told by exit code and line."""

from __future__ import annotations

import json
from itertools import islice
from pathlib import Path

import cv2
import pytest
import yaml
from click.testing import CliRunner
from plans import deploy_like_default
from worse_model import worse_recogniser

from benchmarks import corpus
from serving.cli import main
from serving.config import load_config


@pytest.fixture(scope="module")
def lines(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of 500 rendered crops and their texts."""
    folder = tmp_path_factory.mktemp("lines")
    rows = []
    for sample in islice((line for line in corpus.lines(seed=5, count=600) if line.lines), 500):
        cv2.imwrite(str(folder / f"{sample.name}.png"), sample.image)
        rows.append(f"{sample.name}.png\t{sample.lines[0].text}")
    rows.append("no label")
    (folder / "rec_gt.txt").write_text("\n".join(rows), encoding="utf-8")
    return folder


def test_a_worse_recogniser_is_told_from_the_original(
    lines: Path, repo: Path, built: Path, tmp_path: Path
) -> None:
    original = repo / "configs/PP-OCRv4_mobile.yaml"
    config = yaml.safe_load(original.read_text())
    config["SubModules"]["TextRecognition"]["model_dir"] = str(
        worse_recogniser(built, tmp_path / "worse", noise=0.35)
    )
    worse, models = tmp_path / "worse.yaml", tmp_path / "models"
    worse.write_text(yaml.safe_dump(config))
    models.mkdir()
    deploy_like_default(models, built, *map(load_config, (original, worse)))
    told = ["evaluate", str(worse), "--data", str(lines), "--models", str(models)]
    told += ["--fail-if-worse-than", str(original), "--by", "0.3", "--fail-below", "rec_ned=0.999"]
    result = CliRunner().invoke(main, [*told, "--report", str(tmp_path / "report.html")])
    assert result.exit_code == 1
    assert "rec_gt.txt:501" in result.output
    (line,) = result.stderr.splitlines()[-1:]
    assert line.startswith("Error: rec_ned is 0.")
    assert "below 0.999; rec_accuracy is" in line
    assert "worse by more than 0.3 points than" in line
    summary = json.loads((tmp_path / "report.json").read_text())
    first, second = summary["overall"]["rec_ned"]["values"]
    assert 0.003 < second - first < 0.1
    assert summary["overall"]["rec_ned"]["high"] < 0


@pytest.mark.parametrize(
    ("options", "code", "message"),
    [
        (["--data", "absent"], 1, "no such file or folder"),
        (["--data", ".", "--fail-below", "f1=0.9"], 2, "'f1' is none of det_precision"),
        (["--data", ".", "--fail-below", "char_f1=95"], 2, "a value from 0 to 1"),
        (["--data", ".", "--fail-below", "ms=95"], 2, "'ms' is none of"),
        (["--data", ".", "--report", "out.json"], 2, "ends in .html"),
        (["--data", ".", "--against", "a", "--fail-if-worse-than", "b"], 2, "different pipelines"),
    ],
)
def test_what_is_wrong_is_told_at_once(options: list[str], code: int, message: str) -> None:
    result = CliRunner().invoke(main, ["evaluate", "x.yaml", *options])
    assert result.exit_code == code
    assert message in result.output
