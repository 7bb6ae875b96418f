"""ONNX Runtime's GPU providers up to the provider call: options, profiles, no silent fallback."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from fake_engine import FakeEngine, dark_is_text
from gpu_fakes import L4, pretend_runtime, show_gpus
from onnx import TensorProto, helper

from serving.config import load_config
from serving.config.options import DEFAULT_OPTIONS, Options
from serving.engines.base import EngineSpec
from serving.engines.cuda import cuda_options
from serving.engines.factory import open_engine
from serving.engines.onnxruntime import _nodes
from serving.engines.tensorrt import ABOUT, CONTEXT, Profile, build_options, check_whole
from serving.errors import DeviceError, EngineError
from serving.models.pipeline_models import PipelineModel, pipeline_models
from serving.ocr.detect import Detector
from serving.ocr.recognise import Recogniser
from serving.plan.graphs import Graphs
from serving.plan.shapes import profile

CUDA = EngineSpec("onnxruntime", "float32", threads=4, device="gpu:1")
TENSORRT = EngineSpec("tensorrt", "float16", threads=4, device="gpu:1", batch=8)
SHAPES = Profile((1, 48, 160, 3), (32, 48, 320, 3), (32, 48, 3200, 3))


@pytest.fixture(scope="module")
def found(repo: Path, built: Path) -> dict[str, PipelineModel]:
    config = load_config(repo / "configs/PP-OCRv4_mobile.yaml")
    return {part.section: part for part in pipeline_models(config, built)}


def test_cuda_is_told_the_card_and_the_arithmetic() -> None:
    told = cuda_options(CUDA)
    assert (told["device_id"], told["use_tf32"]) == ("1", "0")
    assert told["cudnn_conv_algo_search"] == "HEURISTIC"
    searched = EngineSpec(
        "onnxruntime", "tf32", options={"cudnn_conv_algo_search": "EXHAUSTIVE"}, device="gpu:0"
    )
    assert cuda_options(searched)["use_tf32"] == "1"
    assert cuda_options(searched)["cudnn_conv_algo_search"] == "EXHAUSTIVE"
    with pytest.raises(EngineError, match="not float16"):
        cuda_options(EngineSpec("onnxruntime", "float16", device="gpu:0"))


def test_tensorrt_is_told_profile_caches_and_context(tmp_path: Path) -> None:
    told = build_options(TENSORRT, SHAPES, tmp_path / "e", tmp_path / "t")
    assert told["trt_profile_min_shapes"] == "image:1x48x160x3"
    assert told["trt_profile_opt_shapes"] == "image:32x48x320x3"
    assert told["trt_profile_max_shapes"] == "image:32x48x3200x3"
    assert told["trt_fp16_enable"] == "1"
    assert (told["trt_engine_cache_path"], told["trt_timing_cache_path"]) == (
        str(tmp_path / "e"),
        str(tmp_path / "t"),
    )
    assert told["trt_ep_context_file_path"] == str(tmp_path / "e" / CONTEXT)
    assert told["trt_dump_ep_context_model"] == told["trt_ep_context_embed_mode"] == "1"
    plain = build_options(
        EngineSpec("tensorrt", "tf32", device="gpu:0"), SHAPES, tmp_path, tmp_path
    )
    assert not {"trt_fp16_enable", "trt_bf16_enable"} & plain.keys()
    with pytest.raises(EngineError, match="not int8"):
        build_options(EngineSpec("tensorrt", "int8"), SHAPES, tmp_path, tmp_path)


def test_a_session_runs_on_the_gpu_or_not_at_all(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    show_gpus(monkeypatch, L4, L4)
    session = pretend_runtime(monkeypatch)
    assert open_engine(tmp_path / "x.onnx", CUDA).spec == CUDA
    assert session.told == [("CUDAExecutionProvider", cuda_options(CUDA))]
    session.there = ()  # what ONNX Runtime does when the provider does not start
    with pytest.raises(
        DeviceError, match=r"could not start its CUDAExecutionProvider.*ocr-hpi doctor"
    ):
        open_engine(tmp_path / "x.onnx", CUDA)


@pytest.mark.filterwarnings("ignore:Specified provider")
def test_the_real_runtime_without_a_gpu_is_not_taken_for_one(
    monkeypatch: pytest.MonkeyPatch, found: dict[str, PipelineModel], built: Path
) -> None:
    """ONNX Runtime opens this session on the CPU, without an error."""
    show_gpus(monkeypatch, L4, L4)
    monkeypatch.setattr("serving.engines.cuda.check_gpu", lambda _: None)
    part = found["TextRecognition"]
    with pytest.raises(DeviceError):
        open_engine(Graphs(built).find(part.folder, part.model), CUDA)


def test_a_built_engine_refuses_what_is_outside_its_profile(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    show_gpus(monkeypatch, L4, L4)
    session = pretend_runtime(monkeypatch)
    (tmp_path / ABOUT).write_text(
        json.dumps({"profile": SHAPES.to_dict(), "nodes": {"tensorrt": 311}})
    )
    engine = open_engine(tmp_path / CONTEXT, EngineSpec("tensorrt", "float16", device="gpu:1"))
    assert session.told == [("TensorrtExecutionProvider", {"device_id": "1"})]  # nothing to build
    assert engine.max_input_size == (48, 3200)
    assert engine.nodes == {"tensorrt": 311}
    for shape in ((33, 48, 320, 3), (1, 48, 80, 3), (1, 48, 3840, 3), (1, 64, 320, 3)):
        with pytest.raises(EngineError, match="outside the TensorRT engine's profile"):
            engine.run(np.zeros(shape, np.uint8))
    (tmp_path / ABOUT).unlink()
    with pytest.raises(EngineError, match=r"about.json.*build_engines.sh"):
        open_engine(tmp_path / CONTEXT, EngineSpec("tensorrt", "float16", device="gpu:1"))


def context(path: Path, *kinds: str) -> Path:
    """An EP-context model with nodes of these kinds in a row."""
    nodes = [
        helper.make_node(
            kind, [f"x{place}"], [f"x{place + 1}"], domain="com.microsoft" if kind[0] == "E" else ""
        )
        for place, kind in enumerate(kinds)
    ]
    ends = [
        helper.make_tensor_value_info(name, TensorProto.FLOAT, ["N"])
        for name in ("x0", f"x{len(kinds)}")
    ]
    onnx.save(helper.make_model(helper.make_graph(nodes, "g", ends[:1], ends[1:])), path)
    return path


def test_a_graph_that_tensorrt_does_not_take_whole_is_no_candidate(tmp_path: Path) -> None:
    whole = context(tmp_path / "whole.onnx", "EPContext")
    check_whole(whole, {"tensorrt": 311})
    with pytest.raises(EngineError, match="nodes by provider: cpu 4, tensorrt 307"):
        check_whole(whole, {"tensorrt": 307, "cpu": 4})
    with pytest.raises(EngineError, match="file holds 2 EPContext, 1 Relu"):
        parted = context(tmp_path / "parts.onnx", "EPContext", "Relu", "EPContext")
        check_whole(parted, {"tensorrt": 311})
    with pytest.raises(EngineError, match="no engine of the whole graph"):
        check_whole(tmp_path / "missing.onnx", {"tensorrt": 311})


def test_nodes_are_counted_by_provider(found: dict[str, PipelineModel], built: Path) -> None:
    """By the real runtime, which gives all nodes to the only provider here."""
    part = found["TextLineOrientation"]
    options = ort.SessionOptions()
    options.add_session_config_entry("session.record_ep_graph_assignment_info", "1")
    options.log_severity_level = 3
    graph = Graphs(built).find(part.folder, part.model)
    session = ort.InferenceSession(graph, options, providers=["CPUExecutionProvider"])
    ((provider, count),) = _nodes(session).items()
    assert provider == "cpu"
    assert count > 50


def test_profiles_hold_all_that_the_stages_send(found: dict[str, PipelineModel]) -> None:
    lines = profile(found["TextRecognition"], TENSORRT, 32)
    model = found["TextRecognition"].model
    for width in (1, 48, 500, 2000, 9000):
        engine = FakeEngine(lambda _: ())
        engine.spec = TENSORRT
        stage = Recogniser(engine, model, min_space=0.03)
        fitted = stage.fit(np.zeros((48, width, 3), np.uint8))
        for batch in (1, 32):
            lines.check((batch, *fitted.shape))
    turns = profile(found["TextLineOrientation"], TENSORRT, 32)
    assert turns.min[1:] == turns.opt[1:] == turns.max[1:]


@pytest.mark.parametrize("size", [(1, 1), (1754, 1240), (300, 4000), (5000, 40), (960, 960)])
@pytest.mark.parametrize("asked", [DEFAULT_OPTIONS, Options(text_det_limit_side_len=3000)])
def test_a_page_is_fitted_to_the_profile_never_built_for(
    found: dict[str, PipelineModel], size: tuple[int, int], asked: Options
) -> None:
    part = found["TextDetection"]
    shapes = profile(part, TENSORRT, 32)
    seen = []
    engine = FakeEngine(lambda images: seen.append(images.shape) or dark_is_text(images))
    engine.max_input_size = shapes.max[1:3]
    page = np.full((*size, 3), 255, np.uint8)
    height, width = size
    page[height // 4 : height // 2, width // 4 : width // 2] = 0
    quads = Detector(engine, part.model, part.module).detect(page, asked).quads
    for shape in seen:  # a page, and its tiles where small text is looked for
        shapes.check(shape)
    if min(size) > 900:  # the block is found where it is on the page, whatever was shrunk
        assert len(quads) == 1
        middle = quads[0].mean(axis=0)
        assert np.allclose(middle, (width * 3 / 8, height * 3 / 8), atol=8)
