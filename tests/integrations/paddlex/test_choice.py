"""Which engine a model of PaddleX's gets from the plans that were built here."""

from __future__ import annotations

import json
import logging
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from serving.config import load_config
from serving.config.gate import Gate, named_gate
from serving.config.pipeline import HpiConfig
from serving.engines.base import EngineSpec
from serving.errors import ConfigError, EngineError
from serving.integrations.paddlex import ModelRequest, planned
from serving.machine import usable_cores
from serving.models.files import digest
from serving.models.store import Store
from serving.plan.candidates import version
from serving.plan.plan import ModelPlan, Plan, Trial, machine, save_plan

CORES = usable_cores()
REC = "PP-OCRv4_mobile_rec"
GOOD = {"error_rate_bound": 0.0, "accuracy_loss_bound": 0.0, "equal_lines": 1.0, "error_rate": 0.0}
FAIR = {**GOOD, "error_rate_bound": 0.008, "equal_lines": 0.9}


def trial(backend: str, precision: str, ms: float, figures: dict[str, float]) -> Trial:
    return Trial(EngineSpec(backend, precision, 1, CORES), "accepted", ms, figures)


TRIALS = (
    trial("onnxruntime", "float32", 20.0, GOOD),
    trial("openvino", "float32", 10.0, GOOD),
    trial("openvino", "bfloat16", 5.0, FAIR),
    Trial(EngineSpec("openvino", "bfloat16", 2, CORES), "chosen", 4.0, FAIR),
)
TWO_STREAMS = str(TRIALS[-1].spec)


@pytest.fixture
def folder(model_store: Store) -> Path:
    return model_store.folder(REC)


@pytest.fixture
def write(tmp_path: Path, folder: Path, repo: Path) -> Callable[..., None]:
    """Writes a plan of this machine for the recogniser; each key has its own deployment."""
    config = load_config(repo / "configs" / "PP-OCRv4_mobile.yaml")

    def write(key: str = "a", trials: tuple[Trial, ...] = TRIALS, **changed: Any) -> None:
        plan = Plan(
            **{
                "key": key,
                "made": "2026-01-01T00:00:00+00:00",
                "cores": CORES,
                "machine": machine(),
                "versions": {name: version(name) for name in ("openvino", "onnxruntime")},
                "gate": Gate().model_dump(),
                "calibration": {},
                "requirements": {},
                "models": {
                    "TextRecognition": ModelPlan(REC, digest(folder), trials, trials[-1].spec)
                },
                **changed,
            }
        )
        save_plan(tmp_path, config.model_copy(update={"pipeline_name": key}), CORES, "cpu", plan)

    return write


def chosen(models: Path, folder: Path, gate: str = "default", **hpi: Any) -> str:
    return candidates(models, folder, gate, **hpi)[0]


def candidates(models: Path, folder: Path, gate: str = "default", **hpi: Any) -> list[str]:
    bounds = named_gate(gate)  # type: ignore[arg-type]
    request = ModelRequest(REC, folder, "cpu", HpiConfig(**hpi))
    return [str(spec) for spec in planned(models, bounds)(request)]


# The candidates of this test are this processor's; where it has no bfloat16, it is not chosen.
@pytest.fixture(autouse=True)
def with_bfloat16(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        "serving.plan.candidates.cpu_flags", lambda: frozenset({"avx512_bf16", "amx_bf16"})
    )


def test_the_gate_decides(tmp_path: Path, folder: Path, write: Callable[..., None]) -> None:
    write()
    one = f"1x{CORES}"
    assert chosen(tmp_path, folder) == TWO_STREAMS  # a recogniser's rows run side by side
    # A plan made for one gate serves every gate: its figures are held against the one asked for.
    assert chosen(tmp_path, folder, "strict") == f"openvino float32 {one}"
    assert chosen(tmp_path, folder, "exact") == f"openvino float32 {one}"


def test_hpi_config_narrows(tmp_path: Path, folder: Path, write: Callable[..., None]) -> None:
    write()
    one = f"1x{CORES}"
    assert chosen(tmp_path, folder, backend="onnxruntime") == f"onnxruntime float32 {one}"
    precise = {"precision": "float32"}
    assert chosen(tmp_path, folder, backend_config=precise) == f"openvino float32 {one}"
    fixed = {"auto_config": False, "backend": "onnxruntime", "backend_config": {"streams": 2}}
    assert chosen(tmp_path, folder, **fixed).startswith("onnxruntime float32 2x")
    with pytest.raises(ConfigError, match=f"{REC}: hpi_config"):
        chosen(tmp_path, folder, backend="tensorrt")


def test_of_several_trials_the_newest_counts(
    tmp_path: Path, folder: Path, write: Callable[..., None]
) -> None:
    write("old")
    write("narrow", TRIALS[:2], made="2026-01-02T00:00:00+00:00")
    assert chosen(tmp_path, folder) == TWO_STREAMS  # which the narrower plan did not try
    faster = trial("openvino", "float32", 3.0, GOOD)
    write("newest", (faster,), made="2026-01-03T00:00:00+00:00")
    assert chosen(tmp_path, folder) == f"openvino float32 1x{CORES}"


@pytest.mark.parametrize(
    "other",
    [
        {"machine": {"cpu": "another"}},
        {"versions": {"openvino": "0.1", "onnxruntime": "0.1"}},
        {"models": {}},
    ],
)
def test_a_plan_of_something_else_does_not_count(
    tmp_path: Path,
    folder: Path,
    write: Callable[..., None],
    caplog: pytest.LogCaptureFixture,
    other: dict[str, Any],
) -> None:
    write(**other)
    with caplog.at_level(logging.WARNING):
        assert chosen(tmp_path, folder) == f"openvino float32 1x{CORES}"
    assert f"{REC}: runs on openvino float32" in caplog.text
    assert "bash scripts/build_engines.sh PIPELINE.yaml" in caplog.text


def test_without_a_plan_the_next_backend_follows_one_that_cannot_load_the_model(
    tmp_path: Path, folder: Path, write: Callable[..., None]
) -> None:
    one = f"float32 1x{CORES}"
    assert candidates(tmp_path, folder)[:2] == [f"openvino {one}", f"onnxruntime {one}"]
    assert candidates(tmp_path, folder, backend="openvino") == [f"openvino {one}"]
    write()
    assert candidates(tmp_path, folder) == [TWO_STREAMS]


def test_another_models_bytes_have_no_plan(
    tmp_path: Path, folder: Path, write: Callable[..., None]
) -> None:
    write()
    tuned = tmp_path / REC
    shutil.copytree(folder, tuned)
    (tuned / "inference.pdiparams").write_bytes(b"fine-tuned")
    assert chosen(tmp_path, tuned) == f"openvino float32 1x{CORES}"


def test_a_plan_that_cannot_be_read_is_passed_over(
    tmp_path: Path, folder: Path, write: Callable[..., None]
) -> None:
    write()
    for name, text in (("b", "{"), ("c", json.dumps({"device": "cpu"}))):
        (tmp_path / "engines" / "plans" / f"my-{name}.json").write_text(text)
    assert chosen(tmp_path, folder) == TWO_STREAMS


def test_the_default_pipelines_own_plan(built: Path, folder: Path) -> None:
    spec = chosen(built, folder, "exact")
    assert " float32 " in spec


def test_another_device(tmp_path: Path, folder: Path) -> None:
    request = ModelRequest(REC, folder, "gpu", HpiConfig())
    with pytest.raises(EngineError, match="device 'gpu'"):
        planned(tmp_path, Gate())(request)
