"""Paddle Inference as an engine: the same answers as the fused graph, where paddle is installed."""

from __future__ import annotations

import importlib.util
import os
import subprocess
from pathlib import Path

import numpy as np
import pytest
from fake_engine import FakeEngine

from serving.config.model import DetectionModel, Normalisation, RecognitionModel, load_model
from serving.config.pipeline import MODULE_NAMES, HpiConfig
from serving.engines.base import EngineSpec
from serving.engines.factory import FusedAdapter, open_engine
from serving.errors import ConfigError, ConversionError, ModelInvalid
from serving.models.conversion import find_build_python
from serving.models.files import paddle_graph
from serving.models.store import Store
from serving.plan.candidates import candidates
from serving.plan.graphs import Graphs

MODELS = [
    ("TextDetection", "PP-OCRv4_mobile_det", [(1, 96, 160, 3), (1, 64, 64, 3)]),
    ("TextLineOrientation", "ch_ppocr_mobile_v2.0_cls", [(1, 48, 192, 3)]),
    ("TextRecognition", "PP-OCRv4_mobile_rec", [(1, 48, 160, 3), (2, 48, 96, 3)]),
]


@pytest.fixture(scope="module")
def paddle_python(repo: Path) -> Path:
    """A Python with paddle: the one that converts. `scripts/test.sh` makes it on a clean clone."""
    try:
        return find_build_python(repo)
    except ConversionError as error:
        pytest.skip(f"no build environment here, the models being converted already: {error}")


def test_answers_as_the_fused_graph_does(
    model_store: Store, repo: Path, tmp_path: Path, paddle_python: Path
) -> None:
    rng = np.random.default_rng(0)
    command = [
        str(paddle_python),
        str(repo / "tests" / "support" / "paddle_child.py"),
        str(tmp_path),
    ]
    asked = {}
    for section, name, shapes in MODELS:
        asked[name] = {str(i): rng.integers(0, 256, s, np.uint8) for i, s in enumerate(shapes)}
        np.savez(tmp_path / f"{name}.npz", **asked[name])
        command += [MODULE_NAMES[section], str(model_store.folder(name))]
    environment = {**os.environ, "PYTHONPATH": str(repo)}
    done = subprocess.run(command, env=environment, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "Paddle cannot load" in (tmp_path / "refused.txt").read_text()
    for section, name, _ in MODELS:
        model = load_model(model_store.folder(name), name, MODULE_NAMES[section])
        graph = Graphs(model_store.root).build(model_store.folder(name), model)
        reference = open_engine(graph, EngineSpec("onnxruntime"))
        with np.load(tmp_path / f"{name}-answers.npz") as answers:
            for key, image in asked[name].items():
                for place, wanted in enumerate(reference.run(image)):
                    found = answers[f"{key}-{place}"]
                    assert found.dtype == wanted.dtype
                    np.testing.assert_allclose(found, wanted, atol=2e-3)


def test_paddle_is_a_candidate_only_with_its_package_and_a_paddle_graph(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    asked = HpiConfig(backend="paddle")
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ConfigError, match="nothing on this machine fits"):
        candidates(asked, cores=2, paddle_graph=True)
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: name)
    assert candidates(asked, cores=2, paddle_graph=True) == [
        EngineSpec("paddle", "float32", 1, 2),
        EngineSpec("paddle", "float32", 2, 2),
    ]
    with pytest.raises(ConfigError, match="the model has no Paddle graph"):
        candidates(asked, cores=2)


def test_the_graph_of_a_paddle_engine_is_the_models_own(model_store: Store, tmp_path: Path) -> None:
    folder = model_store.folder("PP-OCRv4_mobile_det")
    assert paddle_graph(folder).name in ("inference.json", "inference.pdmodel")
    for name in ("inference.yml", "inference.onnx"):
        (tmp_path / name).write_text("x")
    with pytest.raises(ModelInvalid, match="has no Paddle graph"):
        paddle_graph(tmp_path)


def test_the_adapter_maps_nan_to_no_class() -> None:
    model = RecognitionModel("tiny", Normalisation(), 8, 32, tuple("abc"))
    probabilities = np.array([[[0.1, 0.7, 0.2], [np.nan, 0.5, 0.5]]], np.float32)
    index, score, space = FusedAdapter(FakeEngine(lambda _: (probabilities,)), model).run(
        np.zeros((1, 8, 2, 3), np.uint8)
    )
    assert index.tolist() == [[1, 3]]
    assert score[0, 0] == np.float32(0.7)
    assert space[0].tolist() == [np.float32(0.2), 0.5]


def test_the_adapter_of_a_detector_returns_its_map_in_255ths() -> None:
    map_ = np.array([[[[0, 0.5, 1, np.nan]]]], np.float32)
    model = DetectionModel("tiny", Normalisation())
    (found,) = FusedAdapter(FakeEngine(lambda _: (map_,)), model).run(
        np.zeros((1, 1, 4, 3), np.uint8)
    )
    assert found.dtype == np.uint8
    assert found.tolist() == [[[[0, 128, 255, 0]]]]
