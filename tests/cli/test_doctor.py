"""What `ocr-hpi doctor` reports about pipelines. Devices are in tests/test_devices.py."""

from __future__ import annotations

from pathlib import Path

import pytest

from serving.cli.doctor import Finding, examine
from serving.config import load_config
from serving.plan.build import PlanInputs
from serving.plan.plan import find_plan

NAME = "PP-OCRv4_mobile"


def finding(models: Path) -> Finding:
    return next(item for item in examine(models) if item.topic == NAME)


def test_a_newer_backend_is_only_a_hint(
    repo: Path, built: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(repo)
    assert "models and a plan for cpu" in finding(built).text
    assert "faster" not in finding(built).text
    versions = find_plan(load_config(f"configs/{NAME}.yaml"), built).versions
    monkeypatch.setattr(PlanInputs, "versions", lambda _: {**versions, "onnxruntime": "99.0"})
    hint = finding(built)
    assert hint.state == "ok"
    assert f"faster plan: onnxruntime {versions['onnxruntime']} -> 99.0" in hint.text


def test_missing_models_are_absent_with_the_command(
    repo: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(repo)
    missing = finding(tmp_path)
    assert missing.state == "absent"
    assert "bash scripts/" in missing.text
