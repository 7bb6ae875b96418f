"""PaddleX and PaddleOCR on our engines, held against PaddleX's own ONNX Runtime engine.

PaddleX lives in an environment of its own, so a child process there does the reading.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import onnx
import pytest
import yaml
from onnx import TensorProto, helper

from serving import corpus
from serving.engines.base import Array, Engine, EngineSpec
from serving.engines.factory import open_engine
from serving.errors import EngineError
from serving.paddlex import enable
from serving.paddlex.runner import EngineRunner
from serving.store import Store

EQUAL_LINES = 0.995
IMPOSSIBLE = [
    {"backend": "om"},
    {"auto_config": False},
    {"auto_config": False, "backend": "tensorrt"},
    {"backend": "openvino", "backend_config": {"cpu_threads": 2}},
]


@pytest.fixture(scope="module")
def python(repo: Path) -> Path:
    """The Python of the environment with PaddleX."""
    chosen = os.environ.get("OCR_HPI_PADDLEX_PYTHON")
    python = Path(chosen) if chosen else repo / ".venv-paddlex" / "bin" / "python"
    if not python.is_file():
        pytest.fail(f"{python}: no environment with PaddleX; make it: bash scripts/test.sh")
    return python


@pytest.fixture(scope="module")
def scratch(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("paddlex")


@pytest.fixture(scope="module")
def default_yaml(repo: Path) -> Path:
    return repo / "configs" / "PP-OCRv4_mobile.yaml"


@pytest.fixture(scope="module")
def without_orientation(default_yaml: Path, scratch: Path) -> Path:
    """The default pipeline but for line orientation, whose model PaddleX does not know."""
    data = yaml.safe_load(default_yaml.read_text(encoding="utf-8"))
    path = scratch / "pipeline.yaml"
    path.write_text(yaml.safe_dump({**data, "use_textline_orientation": False}), encoding="utf-8")
    return path


@pytest.fixture(scope="module")
def rendered(scratch: Path) -> list[Path]:
    """A clean Chinese page and a degraded English one."""
    pages = []
    for sample in list(corpus.pages(seed=3, count=4))[2:]:
        pages.append(scratch / f"{sample.name}.png")
        cv2.imwrite(str(pages[-1]), sample.image)
    return pages


def run_child(python: Path, repo: Path, job: dict[str, Any], scratch: Path) -> Any:
    asked, answer = scratch / "job.json", scratch / "result.json"
    asked.write_text(json.dumps(job), encoding="utf-8")
    done = subprocess.run(
        [str(python), str(repo / "tests" / "paddlex_child.py"), str(asked), str(answer)],
        cwd=repo,
        env={**os.environ, "PYTHONPATH": str(repo)},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr[-4000:]
    return json.loads(answer.read_text(encoding="utf-8"))


@pytest.fixture(scope="module")
def job(
    model_store: Store,
    default_yaml: Path,
    without_orientation: Path,
    rendered: list[Path],
    scratch: Path,
) -> dict[str, Any]:
    return {
        "models": str(model_store.root),
        "yaml": str(without_orientation),
        "unknown": str(default_yaml),
        "pages": [str(path) for path in rendered],
        "doors": ["plain", "paddlex", "paddleocr", "by row"],
        "layout": str(layout_model(scratch / "RT-DETR-L")),
        "impossible": IMPOSSIBLE,
    }


@pytest.fixture(scope="module")
def result(python: Path, repo: Path, job: dict[str, Any], scratch: Path) -> Any:
    return run_child(python, repo, job, scratch)


def layout_model(folder: Path) -> Path:
    """A detector of PaddleX's kind with three inputs, not in the order of their names.

    It finds one box, from (10, 20) to the image's far corner; the score is the light's.
    """
    nodes = [
        helper.make_node("Div", ["im_shape", "scale_factor"], ["size"]),  # (height, width)
        helper.make_node("Gather", ["size", "swap"], ["corner"], axis=1),
        helper.make_node("ReduceMean", ["image"], ["light"], axes=[1, 2, 3], keepdims=0),
        helper.make_node("Sigmoid", ["light"], ["bright"]),
        helper.make_node("Reshape", ["bright", "column"], ["score"]),
        helper.make_node("Concat", ["class", "score", "start", "corner"], ["boxes"], axis=1),
        helper.make_node("Shape", ["light"], ["rows"]),
        helper.make_node("Cast", ["rows"], ["count"], to=TensorProto.INT32),
    ]
    constants = {
        "swap": np.array([1, 0], np.int64),
        "column": np.array([-1, 1], np.int64),
        "class": np.zeros((1, 1), np.float32),
        "start": np.array([[10, 20]], np.float32),
    }
    shapes = {"scale_factor": ["N", 2], "image": ["N", 3, "H", "W"], "im_shape": ["N", 2]}
    graph = helper.make_graph(
        nodes,
        "layout",
        [helper.make_tensor_value_info(n, TensorProto.FLOAT, s) for n, s in shapes.items()],
        [
            helper.make_tensor_value_info("boxes", TensorProto.FLOAT, ["M", 6]),
            helper.make_tensor_value_info("count", TensorProto.INT32, ["N"]),
        ],
        [onnx.numpy_helper.from_array(value, name) for name, value in constants.items()],
    )
    folder.mkdir()
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8)
    onnx.save(model, folder / "inference.onnx")
    about = {
        "Global": {"model_name": folder.name},
        "Preprocess": [
            {"type": "Resize", "target_size": [64, 96], "keep_ratio": False, "interp": 2},
            {"type": "NormalizeImage", "norm_type": "none"},
            {"type": "Permute"},
        ],
        "draw_threshold": 0.1,
        "label_list": ["page"],
    }
    (folder / "inference.yml").write_text(yaml.safe_dump(about), encoding="utf-8")
    return folder


def equal_lines(read: list[list[str]], wanted: list[list[str]]) -> float:
    common = sum((Counter(a) & Counter(b)).total() for a, b in zip(read, wanted, strict=True))
    return common / max(sum(map(len, read)), sum(map(len, wanted)))


@pytest.mark.parametrize("door", ["paddlex", "paddleocr", "by row"])
def test_reads_what_paddlex_reads(result: Any, door: str) -> None:
    plain = result["texts"]["plain"]
    assert sum(map(len, plain)) > 50
    assert equal_lines(result["texts"][door], plain) >= EQUAL_LINES


def test_reads_real_pages_as_paddlex_does(
    python: Path, repo: Path, job: dict[str, Any], scratch: Path, shared_data: Path
) -> None:
    forms = [str(path) for path in sorted((shared_data / "funsd").glob("*.png"))[:3]]
    real = {**job, "pages": forms, "doors": ["plain", "paddleocr"]}
    texts = run_child(python, repo, real, scratch)["texts"]
    assert equal_lines(texts["paddleocr"], texts["plain"]) >= EQUAL_LINES


def test_runs_on_our_engines_alone(result: Any) -> None:
    models = ("PP-OCRv4_mobile_det", "PP-OCRv4_mobile_rec")
    default, fixed = result["chosen"][:4], result["chosen"][4:6]
    assert [line.split()[:3] for line in default] == 2 * [
        [m, "openvino", "float32"] for m in models
    ]
    assert result["loaded"] == []
    # PaddleOCR hands PaddleX settings for Paddle that would hide `hpi_config`.
    assert fixed == [f"{model} openvino float32 2x1" for model in models]


def test_a_model_of_several_inputs(result: Any, rendered: list[Path]) -> None:
    (ours,), (wanted,) = result["layout"]["hpi"], result["layout"]["onnxruntime"]
    assert ours == pytest.approx(wanted, abs=1e-4)
    height, width = cv2.imread(str(rendered[0])).shape[:2]
    assert ours[1:] == pytest.approx([10, 20, width, height], abs=0.1)


def test_what_cannot_be_is_refused(result: Any) -> None:
    om, no_backend, tensorrt, unknown_key = result["refused"]
    assert "hpi_config" in om and "openvino" in om
    assert no_backend.startswith("ConfigError: PP-OCRv4_mobile_det: hpi_config.auto_config")
    assert "tensorrt" in tensorrt
    assert "cpu_threads" in unknown_key and "cpu_num_threads" in unknown_key
    assert "ch_ppocr_mobile_v2.0_cls" in result["unknown"]
    assert "use_textline_orientation: False" in result["unknown"]


class Recorder(Engine):
    """Answers with what it was given, and keeps how many rows each call had."""

    def __init__(self, *inputs: str, streams: int) -> None:
        super().__init__(EngineSpec("fake", streams=streams, threads=streams))
        self.inputs = inputs
        self.rows: list[int] = []

    def run(self, images: Array, *more: Array) -> tuple[Array, ...]:
        self.rows.append(len(images))
        return (images, *more)


@pytest.mark.parametrize(
    ("by_row", "streams", "rows"), [(True, 2, [1, 1, 1]), (True, 1, [3]), (False, 2, [3])]
)
def test_rows_run_side_by_side_where_they_may(by_row: bool, streams: int, rows: list[int]) -> None:
    engine = Recorder("x", streams=streams)
    runner = EngineRunner(engine, by_row=by_row)
    batch = np.arange(24, dtype=np.float32).reshape(3, 2, 4)
    (found,) = runner([batch])
    runner.close()
    assert np.array_equal(found, batch)
    assert engine.rows == rows


def test_arrays_come_in_the_order_of_sorted_names() -> None:
    runner = EngineRunner(Recorder("scale", "image", "shape", streams=2), by_row=True)
    image, scale, shape = (np.full((2, 1), value, np.float32) for value in (1, 2, 3))
    assert [array[0, 0] for array in runner([image, scale, shape])] == [2, 1, 3]
    with pytest.raises(EngineError, match="scale, image, shape"):
        runner([image])


@pytest.mark.parametrize("backend", ["openvino", "onnxruntime"])
def test_an_engine_takes_several_inputs(tmp_path: Path, backend: str) -> None:
    folder = layout_model(tmp_path / "layout")
    engine = open_engine(folder / "inference.onnx", EngineSpec(backend))
    assert engine.inputs == ("scale_factor", "image", "im_shape")
    scale, shape = np.full((1, 2), 0.5, np.float32), np.array([[8, 4]], np.float32)
    boxes, count = engine.run(scale, np.zeros((1, 3, 8, 4), np.float32), shape)
    assert boxes.tolist() == [[0, 0.5, 10, 20, 8, 16]]
    assert count.tolist() == [1]
    engine.close()


def fake_paddlex(folder: Path, version: str, hpi: str) -> None:
    """A distribution `paddlex` of that version, whose engine hpi is that source."""
    engines = folder / "paddlex" / "inference" / "models" / "engines"
    engines.mkdir(parents=True)
    for package in (engines, *engines.parents[:3]):
        (package / "__init__.py").touch()
    (engines / "hpi.py").write_text(hpi)
    about = folder / f"paddlex-{version}.dist-info"
    about.mkdir()
    (about / "METADATA").write_text(f"Metadata-Version: 2.1\nName: paddlex\nVersion: {version}\n")


def enabling(folder: Path, repo: Path) -> str:
    """What `enable()` says in a process that finds PaddleX in `folder`."""
    code = (
        "import serving.paddlex, serving.errors\n"
        "try: serving.paddlex.enable()\n"
        "except serving.errors.EngineError as error: print(error)"
    )
    path = os.pathsep.join([str(folder), str(repo)])
    command = [sys.executable, "-c", code]
    done = subprocess.run(
        command, env={**os.environ, "PYTHONPATH": path}, capture_output=True, text=True, check=True
    )
    return done.stdout


def test_says_that_paddlex_is_of_another_series(tmp_path: Path, repo: Path) -> None:
    fake_paddlex(tmp_path, "3.70.1", "")
    said = enabling(tmp_path, repo)
    assert "PaddleX 3.70.1" in said and "PaddleX 3.7;" in said and "pip install" in said


def test_says_what_has_moved_in_paddlex(tmp_path: Path, repo: Path) -> None:
    source = "class HPIEngine:\n    def build_runner(self, model, binding): ..."
    fake_paddlex(tmp_path, "3.7.9", source)
    said = enabling(tmp_path, repo)
    assert "PaddleX 3.7.9 differs" in said
    assert "has no HPIEngine.ensure_environment" in said
    assert "HPIEngine.build_runner takes (self, model, binding), not (self, model_name," in said


def test_says_that_paddlex_is_absent() -> None:
    with pytest.raises(EngineError, match="PaddleX is not installed"):
        enable()
