"""What `ocr-hpi doctor` reports about pipelines. Devices are in tests/test_devices.py."""

from __future__ import annotations

from pathlib import Path

import pytest

from serving.cli.doctor import Finding, examine
from serving.config import load_config
from serving.models.store import Store
from serving.plan.build import PlanInputs
from serving.plan.plan import find_plan

NAME = "PP-OCRv4_mobile"


def findings(models: Path) -> dict[str, Finding]:
    """Of the default pipeline, by what they are about."""
    found = [item for item in examine(models) if item.topic.startswith(f"{NAME}, ")]
    return {item.topic.removeprefix(f"{NAME}, "): item for item in found}


def test_models_and_plan_are_here_and_a_newer_backend_is_only_a_hint(
    repo: Path, built: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(repo)
    found = findings(built)
    assert f"{NAME}_det, " in found["models"].text
    assert found["plan"].text.startswith("for cpu, made ")
    assert "faster" not in found["plan"].text
    versions = find_plan(load_config(f"configs/{NAME}.yaml"), built).versions
    monkeypatch.setattr(PlanInputs, "versions", lambda _: {**versions, "onnxruntime": "99.0"})
    hint = findings(built)["plan"]
    assert hint.state == "ok"
    assert f"faster plan: onnxruntime {versions['onnxruntime']} -> 99.0" in hint.text


def test_missing_models_are_absent_with_the_command(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)  # where no configs/ is, as beside an installed wheel
    (missing,) = findings(tmp_path).values()
    assert (missing.topic, missing.state) == (f"{NAME}, models", "absent")
    assert "bash scripts/fetch_models.sh" in missing.text


def test_models_without_a_plan(model_store: Store, tmp_path: Path) -> None:
    for folder in model_store.root.iterdir():
        if folder.name != "engines":
            (tmp_path / folder.name).symlink_to(folder)
    found = findings(tmp_path)
    assert [item.state for item in found.values()] == ["ok", "absent"]
    assert "no engine plan" in found["plan"].text and "build_engines.sh" in found["plan"].text
