"""int8 by NNCF: made while building, held against the gate, served without NNCF."""

from __future__ import annotations

import configparser
import dataclasses
import sys
from functools import partial
from importlib import metadata
from pathlib import Path

import pytest

from serving.config import load_config
from serving.config.gate import Gate
from serving.config.model import RecognitionModel
from serving.config.pipeline import HpiConfig
from serving.engines.base import EngineSpec
from serving.engines.factory import open_engine, open_fused
from serving.errors import EngineError, PlanError
from serving.machine import usable_cores
from serving.models.pipeline_models import PipelineModel, pipeline_models
from serving.models.progress import Quiet
from serving.models.store import Store
from serving.ocr.recognise import Recogniser
from serving.plan.build import Builder
from serving.plan.calibration import Calibration, calibration_set
from serving.plan.candidates import candidates
from serving.plan.graphs import NNCF, GraphOf, Graphs
from serving.plan.plan import find_plan, int8_name
from serving.plan.trials import run_trials

YAML = "configs/PP-OCRv4_mobile.yaml"
INT8 = EngineSpec("openvino", "int8", streams=2, threads=2)
FLOAT32 = EngineSpec("openvino", "float32", streams=2, threads=2)


@pytest.fixture(scope="module")
def few() -> Calibration:
    """A quarter of the calibration set, under a name of its own."""
    whole = calibration_set()
    return dataclasses.replace(
        whole, crops=whole.crops[::4], texts=whole.texts[::4], hash=f"{whole.hash}-quarter"
    )


@pytest.fixture(scope="module")
def recogniser(model_store: Store, repo: Path) -> PipelineModel:
    found = pipeline_models(load_config(repo / YAML), model_store.root)
    (part,) = (part for part in found if part.section == "TextRecognition")
    Graphs(model_store.root).build(part.folder, part.model)
    return part


@pytest.fixture(scope="module")
def graph(model_store: Store, recogniser: PipelineModel, few: Calibration) -> GraphOf:
    """The real recogniser's graphs, the int8 one made now or by an earlier run."""
    graphs, name = Graphs(model_store.root), int8_name(few.hash, metadata.version("nncf"))
    graphs.build_int8(recogniser, name, few)
    return partial(graphs.file, recogniser, name)


def trials(part: PipelineModel, specs: list[EngineSpec], few: Calibration, graph: GraphOf) -> list:
    return run_trials(
        part, specs, gate=Gate(), calibration=few, graph=graph, cores=2, message=lambda _: None
    )


def test_int8_is_a_candidate_only_where_it_is_asked_for() -> None:
    assert all(spec.precision != "int8" for spec in candidates(HpiConfig(), cores=4))
    int8 = HpiConfig(backend="openvino", backend_config={"precision": "int8"})
    assert {spec.precision for spec in candidates(int8, cores=4)} == {"int8"}
    two_streams = HpiConfig(backend_config={"precision": "int8", "streams": 2})
    assert candidates(two_streams, cores=4) == [EngineSpec("openvino", "int8", 2, 4)]


def test_the_gate_rejects_the_int8_recogniser_with_its_figures(
    recogniser: PipelineModel, few: Calibration, graph: GraphOf
) -> None:
    int8, float32 = trials(recogniser, [INT8, FLOAT32], few, graph)
    assert float32.verdict == "chosen"
    assert int8.verdict == "rejected"
    assert int8.figures["error_rate"] < 0.2  # no ruin, which would be easy to reject
    assert int8.figures["error_rate_bound"] > Gate().error_rate
    assert int8.figures["accuracy_loss_bound"] > Gate().accuracy_loss
    assert "error rate" in int8.reason


def test_int8_alone_fails_with_the_figures_and_the_way_out(
    recogniser: PipelineModel, few: Calibration, graph: GraphOf
) -> None:
    with pytest.raises(EngineError, match=r"openvino int8 2x1: error rate 0\.0.* gate: \{h_mean"):
        trials(recogniser, [INT8], few, graph)


def test_an_int8_engine_reads_without_nncf(
    recogniser: PipelineModel, few: Calibration, graph: GraphOf, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "nncf", None)
    assert graph(INT8).suffix == ".xml"
    engine = open_fused(graph(INT8), INT8, recogniser.model)
    assert isinstance(recogniser.model, RecognitionModel)
    stage = Recogniser(engine, recogniser.model, restore_spaces=True)
    read = [stage.read(crop)[0] for crop in few.crops[:20]]
    assert sum(a == b for a, b in zip(read, few.texts, strict=False)) >= 10
    engine.close()


def test_a_plan_names_the_int8_graph_that_it_was_made_with(built: Path, repo: Path) -> None:
    plan = find_plan(load_config(repo / YAML), built)
    made = dataclasses.replace(plan, versions={**plan.versions, "nncf": "3.4.0"})
    assert made.int8_graph == int8_name(plan.calibration["hash"], "3.4.0")


def test_a_missing_int8_graph_is_told(model_store: Store, recogniser: PipelineModel) -> None:
    with pytest.raises(PlanError, match=r"has no int8 graph; run: bash scripts/build_engines.sh"):
        Graphs(model_store.root).file(recogniser, "int8-of-nobody", INT8)


def test_a_missing_nncf_is_told_with_the_line_that_installs_it(
    model_store: Store, repo: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("serving.plan.graphs.nncf_version", lambda: None)
    yaml = tmp_path / "int8.yaml"
    hpi = "\nhpi_config: {backend: openvino, backend_config: {precision: int8}}\n"
    text = (repo / YAML).read_text()
    yaml.write_text(text + hpi)
    with pytest.raises(PlanError, match=r"NNCF, which is not installed; run: .* pip install 'nncf"):
        Builder(model_store.root, usable_cores(), Quiet()).build(load_config(yaml))


def test_the_line_to_type_is_the_extra(repo: Path) -> None:
    setup = configparser.RawConfigParser()
    setup.read(repo / "setup.cfg")
    assert setup["options.extras_require"]["int8"].strip() == NNCF


def test_openvino_names_the_precisions_that_it_has(
    recogniser: PipelineModel, graph: GraphOf
) -> None:
    with pytest.raises(EngineError, match=r"no precision 'fp8'; available: float32, bfloat16"):
        open_engine(graph(FLOAT32), EngineSpec("openvino", "fp8"))
