"""`ocr-hpi plan`: tables of what was tried. What a plan holds: tests/plan."""

from __future__ import annotations

from pathlib import Path

import pytest
from click.testing import CliRunner

from serving.cli import main
from serving.config import load_config
from serving.plan.plan import find_plan


def test_a_legend_says_what_the_columns_and_the_verdicts_mean(
    repo: Path, built: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(repo)
    done = CliRunner().invoke(main, ["plan", "--models", str(built)])
    tables, _, legend = done.output.rpartition("┘")
    words = {line.split()[0]: line for line in legend.splitlines() if line.strip()}
    assert list(words) == ["engine", "ms", "agreement", "verdict", "pages/s"]
    assert all(f" {word}" in tables for word in words)
    plan = find_plan(load_config("configs/PP-OCRv4_mobile.yaml"), built)
    verdicts = {trial.verdict for model in plan.models.values() for trial in model.trials}
    assert "chosen" in verdicts
    assert all(verdict in words["verdict"] for verdict in verdicts)
