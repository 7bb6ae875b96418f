"""The engine plan: what it requires, when it is built anew, trials behind the gate."""

from __future__ import annotations

import dataclasses
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import onnx
import pytest
import yaml
from click.testing import CliRunner
from onnx import numpy_helper

from serving.cli import main
from serving.config import PipelineConfig, load_config, parse_config
from serving.config.gate import Gate
from serving.config.pipeline import HpiConfig
from serving.disk import write_sidecar
from serving.engines.base import EngineSpec
from serving.errors import ConfigError, PlanError
from serving.machine import usable_cores
from serving.models.pipeline_models import PipelineModel, pipeline_models
from serving.plan.build import Builder, PlanInputs, plan_inputs
from serving.plan.calibration import Calibration, calibration_set
from serving.plan.candidates import candidates
from serving.plan.graphs import Graphs
from serving.plan.load import open_pipeline
from serving.plan.plan import Plan, all_deployments, find_plan, read_deployment, save_plan
from serving.plan.trials import run_trials
from serving.progress import Quiet

YAML = "configs/PP-OCRv4_mobile.yaml"


@pytest.fixture(scope="module")
def config(repo: Path) -> PipelineConfig:
    return load_config(repo / YAML)


@pytest.fixture(scope="module")
def found(config: PipelineConfig, built: Path) -> dict[str, PipelineModel]:
    return {part.section: part for part in pipeline_models(config, built)}


@pytest.fixture(scope="module")
def few() -> Calibration:
    """An eighth of the calibration set, for what does not turn on its size."""
    whole = calibration_set()
    return dataclasses.replace(
        whole, pages=whole.pages[::8], crops=whole.crops[::8], texts=whole.texts[::8]
    )


def test_the_calibration_set_is_large_and_half_degraded() -> None:
    whole = calibration_set()
    assert len(whole.texts) >= 400
    assert sum(map(len, whole.texts)) >= 12_000


def test_the_plan_says_what_was_tried_and_chosen(config: PipelineConfig, built: Path) -> None:
    plan = find_plan(config, built)
    assert set(plan.models) == {
        "DocOrientationClassify",
        "TextDetection",
        "TextLineOrientation",
        "TextRecognition",
    }
    for model in plan.models.values():
        verdicts = [trial.verdict for trial in model.trials]
        assert verdicts.count("chosen") == 1
        (chosen,) = (trial for trial in model.trials if trial.verdict == "chosen")
        assert chosen == model.trial
        assert all(trial.ms for trial in model.trials)
        assert all(
            trial.reason for trial in model.trials if trial.verdict in ("rejected", "slower")
        )
        assert model.hot_shapes
    assert sum(item.chosen for item in plan.combinations) == 1
    assert plan.cores == usable_cores()
    assert [trial.workers for trial in plan.worker_trials if trial.chosen] == [plan.workers]
    assert all(trial.reason or trial.chosen for trial in plan.worker_trials)


def test_keys_that_say_how_pages_are_read_need_no_build(
    config: PipelineConfig, built: Path, repo: Path
) -> None:
    data = yaml.safe_load((repo / "configs/PP-OCRv4_mobile.yaml").read_text(encoding="utf-8"))
    detection, recognition = (
        data["SubModules"][f"Text{kind}"] for kind in ("Detection", "Recognition")
    )
    detection |= {"thresh": 0.2, "box_thresh": 0.5, "unclip_ratio": 1.8, "tiling": False}
    recognition |= {"score_thresh": 0.3, "return_word_box": True, "batch_size": 8}
    changed = parse_config({**data, "batch_size": 4, "order": "columns"}, source="mine.yaml")
    assert find_plan(changed, built).key == find_plan(config, built).key
    detection["limit_side_len"] = 1200
    with pytest.raises(PlanError, match="no engine plan"):
        find_plan(parse_config(data, source="mine.yaml"), built)


def test_streams_share_the_cores_in_several_ways() -> None:
    """One stream of all cores, a stream a core, and two ways between."""
    shared = {
        cores: [
            (spec.streams, spec.threads // spec.streams)
            for spec in candidates(HpiConfig(backend="onnxruntime"), cores=cores)
        ]
        for cores in (1, 2, 6, 64)
    }
    assert shared == {
        1: [(1, 1)],
        2: [(1, 2), (2, 1)],
        6: [(1, 6), (3, 2), (6, 1)],
        64: [(1, 64), (16, 4), (32, 2), (64, 1)],
    }


def test_a_second_build_makes_nothing(config: PipelineConfig, built: Path) -> None:
    def plans() -> dict[Path, int]:
        """Other tests may build other pipelines in the same folder meanwhile."""
        found = built.glob("engines/plans/PP-OCRv4_mobile-*.json")
        return {path: path.stat().st_mtime_ns for path in found}

    before = plans()
    _, made = Builder(built, usable_cores(), Quiet()).build(config)
    assert before and not made
    assert plans() == before


@pytest.fixture
def plan(config: PipelineConfig, built: Path) -> Plan:
    """The default pipeline's, as it was built."""
    return find_plan(config, built)


def test_a_build_measures_again_where_something_that_it_compares_has_changed(
    config: PipelineConfig, built: Path, plan: Plan, monkeypatch: pytest.MonkeyPatch
) -> None:
    inputs, calibration = plan_inputs(config, built, plan.cores), str(plan.calibration["hash"])
    assert inputs.differences(plan, calibration) == ""
    assert "calibration set" in inputs.differences(plan, "another set")
    strict = dataclasses.replace(
        inputs, config=config.model_copy(update={"gate": Gate(error_rate=0.001)})
    )
    assert strict.differences(plan, calibration)
    assert dataclasses.replace(inputs, cores=plan.cores + 1).differences(plan, calibration)
    specs = {**inputs.specs, "TextRecognition": inputs.specs["TextRecognition"][:1]}
    assert dataclasses.replace(inputs, specs=specs).differences(plan, calibration)
    versions = {**inputs.versions(), "onnxruntime": "99.0"}
    monkeypatch.setattr(PlanInputs, "versions", lambda _: versions)
    installed = plan.versions["onnxruntime"]
    assert inputs.differences(plan, calibration) == f"onnxruntime {installed} -> 99.0"


def test_serving_looks_only_at_what_was_chosen(
    config: PipelineConfig, built: Path, plan: Plan, monkeypatch: pytest.MonkeyPatch
) -> None:
    chosen = {model.choice.backend for model in plan.models.values()}
    monkeypatch.setattr(
        "serving.plan.plan.version",
        lambda name: plan.versions[name] if name in chosen else "99.0",
    )
    open_pipeline(config, models=built, warm=False).close()
    backend = min(chosen)
    monkeypatch.setattr("serving.plan.plan.version", lambda name: "99.0")
    message = (
        rf"{backend} was {plan.versions[backend]} when the plan was made and is 99.0 now.*; "
        r"run: bash scripts/build_engines.sh .*mobile.yaml$"
    )
    with pytest.raises(PlanError, match=message):
        open_pipeline(config, models=built)


@pytest.mark.parametrize(
    ("name", "before"),
    [("files of PP-OCRv4_mobile_det", "0"), ("CPU flags", "[]"), ("graphs", "old"), ("cores", "9")],
)
def test_a_changed_requirement_is_named(
    config: PipelineConfig, store: Path, plan: Plan, name: str, before: str
) -> None:
    changed = dataclasses.replace(plan, requirements={**plan.requirements, name: before})
    save_plan(store, config, plan.cores, "cpu", changed)
    with pytest.raises(PlanError, match=rf"{name} was .* and is .* now; run"):
        open_pipeline(config, models=store)


def test_another_number_of_cores_is_another_plan(config: PipelineConfig, built: Path) -> None:
    with pytest.raises(PlanError, match=r"scripts/build_engines.sh .*mobile.yaml --threads 77$"):
        find_plan(config, built, threads=77)


def test_a_copy_of_the_yaml_has_the_same_plan(
    config: PipelineConfig, built: Path, plan: Plan, repo: Path, tmp_path: Path
) -> None:
    copy = tmp_path / "copy.yaml"
    copy.write_text((repo / YAML).read_text() + "# the same\n")
    assert find_plan(load_config(copy), built) == plan


def test_hpi_config_narrows_and_fixes() -> None:
    only = candidates(HpiConfig(backend="onnxruntime"), cores=4)
    assert {spec.backend for spec in only} == {"onnxruntime"}
    narrow = HpiConfig(backend_config={"precision": "float32", "cpu_num_threads": 3})
    assert {(spec.precision, spec.threads) for spec in candidates(narrow, cores=8)} == {
        ("float32", 3)
    }
    fixed = HpiConfig(auto_config=False, backend="openvino", backend_config={"streams": 2})
    assert candidates(fixed, cores=2) == [EngineSpec("openvino", "float32", 2, 2)]
    with pytest.raises(ConfigError, match="auto_config"):
        candidates(HpiConfig(auto_config=False), cores=2)


def trial(part: PipelineModel, graph: Path, calibration: Calibration, ruined: Path) -> list[str]:
    """Verdicts of an engine on the ruined graph and of one on the graph itself."""
    ours = EngineSpec("openvino", streams=2, threads=2)
    spoilt = EngineSpec("onnxruntime", streams=1, threads=2)
    trials = run_trials(
        part,
        [spoilt, ours],
        gate=Gate(),
        calibration=calibration,
        graph=lambda spec: ruined if spec == spoilt else graph,
        cores=2,
        message=lambda _: None,
    )
    return [item.verdict for item in trials]


def ruin(graph: Path, target: Path, noise: float) -> None:
    """Add noise of that share of its spread to every large weight of the graph."""
    rng = np.random.default_rng(0)
    model = onnx.load(graph)
    constants = [node.attribute[0].t for node in model.graph.node if node.op_type == "Constant"]
    ruined = 0
    for weight in (*model.graph.initializer, *constants):
        values = numpy_helper.to_array(weight)
        if weight.name != "class_numbers" and values.dtype == np.float32 and values.size > 1000:
            noisy = values + rng.normal(0, noise * values.std(), values.shape).astype(np.float32)
            weight.CopyFrom(numpy_helper.from_array(noisy, weight.name))
            ruined += 1
    assert ruined
    onnx.save(model, target)


@pytest.mark.parametrize(("section", "noise"), [("TextDetection", 0.2), ("TextRecognition", 0.2)])
def test_the_rendered_set_alone_rejects_a_ruined_model(
    section: str,
    noise: float,
    found: dict[str, PipelineModel],
    built: Path,
    few: Calibration,
    tmp_path: Path,
) -> None:
    part = found[section]
    graph = Graphs(built).find(part.folder, part.model)
    ruin(graph, tmp_path / "ruined.onnx", noise)
    assert trial(part, graph, few, tmp_path / "ruined.onnx") == ["rejected", "chosen"]


def test_a_build_killed_at_any_point_leaves_the_old_plan(
    config: PipelineConfig, built: Path, repo: Path
) -> None:
    """Kill -9 a build of another plan in the same store at several moments."""
    before = find_plan(config, built)
    yaml = built / "engines" / "killed.yaml"
    yaml.write_text((repo / YAML).read_text() + "\ngate: {h_mean: 0.5}\n")
    command = [sys.executable, "-m", "serving.cli", "build", str(yaml), "--models", str(built)]
    for seconds in (0.5, 2, 4):
        child = subprocess.Popen(
            command, cwd=repo, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        time.sleep(seconds)
        os.kill(child.pid, signal.SIGKILL)
        child.wait()
        assert find_plan(config, built) == before
    with pytest.raises(PlanError):
        find_plan(load_config(yaml), built)
    yaml.unlink()


@pytest.mark.parametrize(
    "text",
    [
        "",
        "[]",
        "null",
        "{",
        '{"device": "cpu"}',
        '{"pipeline": "a", "cores": 2, "device": "moon", "plans": {}}',
        '{"pipeline": "a", "cores": 2, "device": "cpu", "plans": {"cpu": {"workers": "x"}}}',
        '{"pipeline": "a", "cores": 2, "device": "cpu", "plans": {}, "renamed": 1}',
    ],
)
def test_a_damaged_file_is_an_error_and_a_build_replaces_it(
    config: PipelineConfig, plan: Plan, tmp_path: Path, text: str
) -> None:
    save_plan(tmp_path, config, plan.cores, "cpu", plan)
    (path,) = (tmp_path / "engines" / "plans").glob("*.json")
    path.write_text(text)
    write_sidecar(path)
    message = rf"{path.name}: cannot be read .*; run: bash scripts/build_engines.sh .*mobile.yaml$"
    with pytest.raises(PlanError, match=message):
        open_pipeline(config, models=tmp_path)
    assert list(all_deployments(tmp_path)) == []
    save_plan(tmp_path, config, plan.cores, "cpu", plan)
    assert find_plan(config, tmp_path) == plan


def test_the_file_is_named_after_the_yaml_and_holds_the_plan_of_each_device(
    config: PipelineConfig, plan: Plan, tmp_path: Path
) -> None:
    save_plan(tmp_path, config, plan.cores, "cpu", plan)
    save_plan(tmp_path, config, plan.cores, "gpu:0", dataclasses.replace(plan, workers=3))
    (path,) = (tmp_path / "engines" / "plans").glob("*.json")
    assert path.name.startswith("PP-OCRv4_mobile-")
    assert json.loads(path.read_text())["plans"].keys() == {"cpu", "gpu"}
    deployment = read_deployment(tmp_path, config, plan.cores)
    assert deployment.device == "gpu:0"
    assert deployment.plan("cpu") == plan
    assert (deployment.workers("cpu"), deployment.workers("gpu:0")) == (plan.workers, 3)


@pytest.mark.parametrize(
    "place",
    [
        (),
        ("models", "TextRecognition"),
        ("models", "TextRecognition", "batch_trial"),
        ("models", "TextRecognition", "choice"),
        ("models", "TextRecognition", "trials", 0),
        ("combinations", 0),
        ("worker_trials", 0),
    ],
)
def test_a_field_of_another_version_is_an_error(
    config: PipelineConfig, plan: Plan, tmp_path: Path, place: tuple[str | int, ...]
) -> None:
    """A plan made before a rename must not load with a hole where the new field is."""
    save_plan(tmp_path, config, plan.cores, "cpu", plan)
    (path,) = (tmp_path / "engines" / "plans").glob("*.json")
    content = json.loads(path.read_text())
    at = content["plans"]["cpu"]
    for step in place:
        at = at[step]
    at["old_name"] = 1
    path.write_text(json.dumps(content))
    write_sidecar(path)
    with pytest.raises(PlanError, match=r"old_name: .*; run: bash scripts/build_engines.sh"):
        find_plan(config, tmp_path)


def test_a_plan_of_a_busy_machine_says_so(
    config: PipelineConfig,
    plan: Plan,
    store: Path,
    repo: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    models = {
        section: dataclasses.replace(
            model,
            trials=tuple(dataclasses.replace(trial, noise=0.4) for trial in model.trials),
            batch_trial=None,
        )
        for section, model in plan.models.items()
    }
    plan = dataclasses.replace(plan, models=models, combinations=(), worker_trials=())
    save_plan(store, config, plan.cores, "cpu", plan)
    monkeypatch.chdir(repo)
    words = "measured on a busy machine (spread 40 %): build again when quiet: bash scripts/"
    for command in (["plan", YAML], ["doctor"]):
        done = CliRunner().invoke(main, [*command, "--models", str(store)])
        assert words in " ".join(done.output.split()), done.output
    open_pipeline(config, models=store, warm=False).close()
    assert words in caplog.text


def test_an_arm_processor_measures_its_own_precisions(monkeypatch: pytest.MonkeyPatch) -> None:
    flags = frozenset({"fp", "asimd", "asimdhp", "bf16"})  # Neoverse N1 and newer
    monkeypatch.setattr("serving.plan.candidates.cpu_flags", lambda: flags)
    kinds = {(spec.backend, spec.precision) for spec in candidates(HpiConfig(), cores=4)}
    assert kinds == {
        ("openvino", "float32"),
        ("openvino", "float16"),
        ("onnxruntime", "float32"),
    }


@pytest.mark.parametrize(
    ("flags", "settings", "quantised", "offered"),
    [
        ({"avx512f", "avx512_vnni"}, {}, True, True),
        ({"avx2", "avx_vnni"}, {}, True, True),
        ({"avx512f", "avx512_vnni"}, {}, False, False),
        ({"avx512f"}, {}, True, False),
        ({"avx512_vnni", "avx512_bf16"}, {}, True, False),
        ({"avx512_vnni", "avx512_bf16"}, {"precision": "int8"}, True, True),
    ],
    ids=["VNNI", "client VNNI", "classifier", "no VNNI", "bfloat16", "on request"],
)
def test_int8_is_tried_where_the_processor_has_no_other_reduced_precision(
    monkeypatch: pytest.MonkeyPatch,
    flags: set[str],
    settings: dict[str, str],
    quantised: bool,
    offered: bool,
) -> None:
    monkeypatch.setattr("serving.plan.candidates.cpu_flags", lambda: frozenset(flags))
    hpi = HpiConfig.model_validate({"backend_config": settings})
    kinds = {
        (spec.backend, spec.precision) for spec in candidates(hpi, cores=2, quantised=quantised)
    }
    assert (("openvino", "int8") in kinds) == offered
    assert ("onnxruntime", "int8") not in kinds


def test_int8_of_a_classifier_is_refused() -> None:
    fixed = {"backend": "openvino", "backend_config": {"precision": "int8"}}
    hpi = HpiConfig.model_validate({"auto_config": False, **fixed})
    assert candidates(hpi, cores=2, quantised=True) == [EngineSpec("openvino", "int8", 1, 2)]
    for settings in (hpi, HpiConfig.model_validate(fixed)):
        with pytest.raises(ConfigError, match="int8"):
            candidates(settings, cores=2)
