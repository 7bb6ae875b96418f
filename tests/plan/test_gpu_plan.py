"""A plan for a GPU, up to the provider call: candidates, keys, engines on disk, a missing GPU."""

from __future__ import annotations

import dataclasses
import json
import logging
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort
import pytest
from gpu_fakes import L4, T4, hide_gpus, pretend_runtime, show_gpus
from plans import deploy

from benchmarks import corpus
from serving.config import PipelineConfig, load_config
from serving.config.pipeline import HpiConfig
from serving.engines.base import EngineSpec
from serving.engines.tensorrt import ABOUT, CONTEXT, Profile
from serving.errors import ConfigError, DeviceError, EngineError, PlanError
from serving.http.gunicorn.master import free_number
from serving.http.registry import warmup_image
from serving.imaging.crop import crop
from serving.machine import usable_cores
from serving.models.pipeline_models import PipelineModel, pipeline_models
from serving.plan.build import Builder, PlanInputs
from serving.plan.calibration import Calibration, calibration_hash
from serving.plan.candidates import candidates
from serving.plan.graphs import Graphs
from serving.plan.load import open_pipeline
from serving.plan.plan import find_plan, planned_workers, read_deployment, select_device
from serving.progress import Quiet

YAML = "configs/PP-OCRv4_mobile.yaml"


@pytest.fixture
def config(repo: Path) -> PipelineConfig:
    return load_config(repo / YAML)


@pytest.fixture
def recogniser(config: PipelineConfig, built: Path) -> PipelineModel:
    return next(
        part for part in pipeline_models(config, built) if part.section == "TextRecognition"
    )


def offered(hpi: HpiConfig | None = None, *, lines: bool = True) -> list[EngineSpec]:
    return candidates(hpi or HpiConfig(), cores=4, device="gpu:0", lines=lines)


def test_compute_capability_decides_on_precisions(monkeypatch: pytest.MonkeyPatch) -> None:
    pretend_runtime(monkeypatch)
    show_gpus(monkeypatch, L4)
    assert {(spec.backend, spec.precision) for spec in offered()} == {
        *(("onnxruntime", precision) for precision in ("float32", "tf32")),
        *(("tensorrt", precision) for precision in ("tf32", "float16", "bfloat16")),
    }
    show_gpus(monkeypatch, T4)
    assert {(spec.backend, spec.precision) for spec in offered()} == {
        ("onnxruntime", "float32"),
        *(("tensorrt", precision) for precision in ("float32", "float16")),
    }


def test_lines_come_in_batches_and_pages_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    pretend_runtime(monkeypatch)
    show_gpus(monkeypatch, L4)
    assert {spec.batch for spec in offered()} == {1, 8, 32}
    assert {spec.batch for spec in offered(lines=False)} == {1}
    searches = {spec.options.get("cudnn_conv_algo_search") for spec in offered()}
    assert searches == {"HEURISTIC", "EXHAUSTIVE", "DEFAULT", None}
    assert {spec.streams for spec in offered()} == {1, 2}
    assert {spec.device for spec in offered()} == {"gpu:0"}
    assert offered()[0] == EngineSpec(
        "onnxruntime", "float32", 1, 4, {"cudnn_conv_algo_search": "HEURISTIC"}, "gpu:0"
    )


def test_without_tensorrt_there_is_cuda(monkeypatch: pytest.MonkeyPatch) -> None:
    pretend_runtime(monkeypatch)
    show_gpus(monkeypatch, L4)
    monkeypatch.setattr(
        "serving.engines.cuda.load", lambda names: [(name, "not found") for name in names]
    )
    assert {spec.backend for spec in offered()} == {"onnxruntime"}
    with pytest.raises(ConfigError, match=r"nothing on gpu:0 \(NVIDIA L4: float32, tf32"):
        offered(HpiConfig(backend="tensorrt"))


def test_hpi_config_narrows_and_fixes_on_a_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    pretend_runtime(monkeypatch)
    show_gpus(monkeypatch, L4)
    assert {spec.backend for spec in offered(HpiConfig(backend="tensorrt"))} == {"tensorrt"}
    narrow = offered(HpiConfig(backend_config={"precision": "float16", "batch": 8}))
    assert narrow == [EngineSpec("tensorrt", "float16", 1, 4, device="gpu:0", batch=8)]
    fixed = HpiConfig(auto_config=False, backend="tensorrt", backend_config={"batch": 4})
    assert offered(fixed) == [EngineSpec("tensorrt", "tf32", 1, 4, device="gpu:0", batch=4)]
    assert {spec.batch for spec in offered(fixed, lines=False)} == {1}
    eight = HpiConfig(backend_config={"batch": 8})
    assert {spec.batch for spec in offered(eight)} == {8}
    assert {spec.batch for spec in offered(eight, lines=False)} == {1}
    # A YAML that names a backend of the processor keeps it there.
    assert {spec.device for spec in offered(HpiConfig(backend="openvino"))} == {"cpu"}
    with pytest.raises(ConfigError, match="batch: must be 1, 2 or 4 on a CPU"):
        offered(HpiConfig(backend="openvino", backend_config={"batch": 8}))
    with pytest.raises(ConfigError, match="backend_config"):
        wrong = {"precision": "float32"}
        offered(HpiConfig(auto_config=False, backend="tensorrt", backend_config=wrong))


def test_a_key_holds_the_card_its_driver_and_not_its_number(
    monkeypatch: pytest.MonkeyPatch, config: PipelineConfig, recogniser: PipelineModel
) -> None:
    spec = EngineSpec("onnxruntime", threads=2, device="gpu:0")

    def keyed(spec: EngineSpec) -> str:
        section = recogniser.section
        return PlanInputs(config, {section: recogniser}, {section: [spec]}, 2).key("")

    show_gpus(monkeypatch, L4, L4)
    base = keyed(spec)
    assert keyed(dataclasses.replace(spec, device="gpu:1")) == base
    assert keyed(dataclasses.replace(spec, device="cpu")) != base
    assert keyed(dataclasses.replace(spec, batch=8)) != base
    show_gpus(monkeypatch, L4, driver="580.200")
    assert keyed(spec) != base
    show_gpus(monkeypatch, ("NVIDIA L40", (8, 9)))
    assert keyed(spec) != base


def test_a_tensorrt_engine_is_built_once_and_appears_whole(
    monkeypatch: pytest.MonkeyPatch, recogniser: PipelineModel, tmp_path: Path
) -> None:
    show_gpus(monkeypatch, L4)
    monkeypatch.setattr("serving.plan.graphs.version", lambda _: "1.31.1")
    made: list[Profile] = []

    def build(graph: Path, spec: EngineSpec, shapes: Profile, folder: Path, timing: Path) -> Any:
        made.append(shapes)
        assert timing.is_dir()
        (folder / CONTEXT).write_text("half")
        if graph.name == "fails.onnx":
            raise EngineError("TensorRT does not take the graph whole")
        return {"tensorrt": 311}

    monkeypatch.setattr("serving.engines.onnxruntime.build_context", build)
    graphs = Graphs(tmp_path)
    spec = EngineSpec("tensorrt", "float16", threads=2, device="gpu:0", batch=8)
    with pytest.raises(PlanError, match=r"scripts/build_engines.sh"):
        graphs.file(recogniser, spec)
    with pytest.raises(EngineError, match="whole"):
        graphs.build_tensorrt(recogniser, spec, Path("fails.onnx"), Quiet())
    with pytest.raises(PlanError):
        graphs.file(recogniser, spec)
    path = graphs.build_tensorrt(recogniser, spec, Path("x.onnx"), Quiet())
    assert graphs.file(recogniser, spec) == path
    about = json.loads(path.with_name(ABOUT).read_text())
    assert about["device"]["gpu"] == "NVIDIA L4"
    assert Profile.from_dict(about["profile"]) == made[-1]
    path.write_text("flipped")
    with pytest.raises(PlanError, match=r"context.onnx: is damaged: .*run: bash scripts/build"):
        graphs.file(recogniser, spec)
    graphs.build_tensorrt(recogniser, spec, Path("x.onnx"), Quiet())
    assert graphs.file(recogniser, spec).read_text() == "half"
    assert len(made) == 3
    # Another batch is the same engine; another precision or driver is not.
    graphs.build_tensorrt(recogniser, dataclasses.replace(spec, batch=1), Path("x.onnx"), Quiet())
    assert len(made) == 3
    graphs.build_tensorrt(
        recogniser, dataclasses.replace(spec, precision="tf32"), Path("x"), Quiet()
    )
    assert len(made) == 4
    show_gpus(monkeypatch, L4, driver="580.200")
    with pytest.raises(PlanError):
        graphs.file(recogniser, spec)


def test_build_takes_a_gpu_where_one_is_and_never_leaves_it_silently(
    monkeypatch: pytest.MonkeyPatch, config: PipelineConfig, tmp_path: Path
) -> None:
    hide_gpus(monkeypatch)
    assert select_device(tmp_path, config, 2) == "cpu"
    pretend_runtime(monkeypatch)
    show_gpus(monkeypatch, L4)
    assert select_device(tmp_path, config, 2) == "gpu:0"
    deploy(tmp_path, config, 2, "gpu:0,1", 4)
    assert read_deployment(tmp_path, config, 2).device == "gpu:0,1"
    assert planned_workers(tmp_path, [config], 2) == 4
    assert planned_workers(tmp_path, [config], 2, "cpu") == 1
    assert planned_workers(tmp_path, [config], 4) == 1
    assert read_deployment(tmp_path, config, 4).device == "cpu"
    hide_gpus(monkeypatch)
    with pytest.raises(DeviceError, match=r"last built for gpu:0,1, .* --device cpu"):
        select_device(tmp_path, config, 2)
    deploy(tmp_path, config, 2, "cpu", 1)
    assert planned_workers(tmp_path, [config], 2) == 1
    assert planned_workers(tmp_path, [config], 2, "gpu:0,1") == 4
    assert planned_workers(tmp_path, [config], 2, "gpu:0,1", cpu_fallback=True) == 1
    assert select_device(tmp_path, config, 2) == "cpu"


def test_a_gpu_that_has_gone_stops_the_server_unless_the_cpu_is_allowed(
    config: PipelineConfig,
    store: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    deploy(store, config, usable_cores(), "gpu:0", 1)
    hide_gpus(monkeypatch)
    with pytest.raises(DeviceError, match=r"is for gpu:0, .*NVML.* --allow-cpu-fallback"):
        open_pipeline(config, models=store)
    with caplog.at_level(logging.WARNING):
        pipeline = open_pipeline(config, models=store, allow_cpu_fallback=True, warm=False)
    assert "reading on the CPU, because gpu:0 cannot be used" in caplog.text
    engines = [part["engine"]["device"] for part in pipeline.to_dict().values()]
    pipeline.close()
    assert set(engines) == {"cpu"}


def test_serve_says_so_in_one_line(config: PipelineConfig, store: Path, repo: Path) -> None:
    deploy(store, config, usable_cores(), "gpu:0", 1)
    done = subprocess.run(
        [sys.executable, "-m", "serving.cli", "serve", "--port", "0", "--models", str(store)],
        cwd=repo,
        env={**os.environ, "PYTHONPATH": str(repo), "CUDA_VISIBLE_DEVICES": ""},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 1
    assert done.stdout == ""
    (line,) = (line for line in done.stderr.splitlines() if line.startswith("Error: "))
    assert "is for gpu:0, which cannot be used" in line
    assert "--allow-cpu-fallback" in line


def one_page() -> Calibration:
    """A small page, and ten lines of another, for what does not turn on more."""
    page = next(iter(corpus.pages(seed=5, count=1)))
    lines = page.lines[:10]
    return Calibration(
        pages=(warmup_image(),),
        crops=tuple(crop(page.image, np.array(line.quad, np.int32))[0] for line in lines),
        texts=tuple(line.text for line in lines),
        own_pages=(),
        hash=calibration_hash(),
    )


class OnTheProcessor:
    """A session that says it is on a GPU and computes on the processor."""

    def __init__(self, graph: str, options: Any, *, providers: Any, **rest: Any) -> None:
        self._name = providers[0][0]
        self._session = REAL(graph, options, providers=["CPUExecutionProvider"])
        self.get_provider_graph_assignment_info = self._session.get_provider_graph_assignment_info
        self.run, self.get_inputs = self._session.run, self._session.get_inputs

    def get_providers(self) -> list[str]:
        return [self._name]


REAL = ort.InferenceSession


@pytest.mark.usefixtures("short_races")
def test_a_plan_for_two_equal_gpus_is_built_and_served(
    repo: Path,
    store: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """From build to page, with the real models; only the session is not NVIDIA's."""
    pretend_runtime(monkeypatch)
    show_gpus(monkeypatch, L4, L4)
    monkeypatch.setattr("onnxruntime.InferenceSession", OnTheProcessor)
    monkeypatch.setattr("serving.plan.build.calibration_set", lambda _: one_page())
    yaml = tmp_path / "gpu.yaml"
    fixed = "{auto_config: False, backend: onnxruntime, backend_config: {batch: 4}}"
    text = (repo / YAML).read_text().replace("limit_side_len: 960", "limit_side_len: 640")
    yaml.write_text(f"{text}\nhpi_config: {fixed}\ngate: {{h_mean: 0.5}}\n")
    config, cores = load_config(yaml), usable_cores()
    builder = Builder(store, cores, Quiet(), device="gpu:0,1")
    plan, made = builder.build(config)
    assert made
    assert plan.machine["gpu"] == "NVIDIA L4"
    assert plan.models["TextRecognition"].choice.batch == 4
    assert plan.models["TextDetection"].choice.batch == 1
    (trial,) = plan.models["TextRecognition"].trials
    assert trial.figures["nodes_cpu"] > 100
    assert len(plan.models["TextRecognition"].hot_shapes) <= 9
    assert builder.build(config) == (plan, False)
    assert find_plan(config, store) == plan
    page = warmup_image()
    texts, identities = [], set()
    for slot in (1, 2):
        pipeline = open_pipeline(config, models=store, slot=slot, workers=2, warm=False)
        identities.add(pipeline.identity)
        (device,) = {part["engine"]["device"] for part in pipeline.to_dict().values()}
        assert device == f"gpu:{slot % 2}"
        texts.append([line.text for line in pipeline.read(page).lines])
        pipeline.close()
    assert texts[0] == texts[1]
    assert "Total 1,250.00 EUR" in texts[0]
    assert "idle" not in caplog.text
    open_pipeline(config, models=store, warm=False).close()
    assert "is for gpu:0, gpu:1; with --workers 1 some of these are idle" in caplog.text
    assert len(identities) == 1  # or the master would take the second for one of other models


def test_workers_number_themselves_from_what_is_free() -> None:
    assert [free_number(()), free_number((0, 2)), free_number((2, 1, 0))] == [0, 1, 3]
