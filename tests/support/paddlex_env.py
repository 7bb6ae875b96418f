"""The environment with PaddleX: a child process there does what a test asks."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import yaml
from onnx import TensorProto, helper


def paddlex_python(repo: Path) -> Path:
    """Its Python; the test fails where there is none."""
    chosen = os.environ.get("OCR_HPI_PADDLEX_PYTHON")
    python = Path(chosen) if chosen else repo / ".venv-paddlex" / "bin" / "python"
    if not python.is_file():
        pytest.fail(f"{python}: no environment with PaddleX; make it: bash scripts/test.sh")
    return python


def run_there(repo: Path, *command: str | Path) -> subprocess.CompletedProcess[str]:
    """Run its Python on these arguments."""
    environment = {**os.environ, "PYTHONPATH": str(repo)}
    environment["PADDLE_PDX_DISABLE_MODEL_SOURCE_CHECK"] = "True"
    # With which it draws; it would fetch others from its makers.
    font = repo / "serving" / "data" / "NotoSansCJKsc-Regular.otf"
    environment["PADDLE_PDX_LOCAL_FONT_FILE_PATH"] = str(font)
    return subprocess.run(
        [str(paddlex_python(repo)), *map(str, command)],
        cwd=repo,
        env=environment,
        capture_output=True,
        text=True,
    )


def ask_child(repo: Path, job: dict[str, Any], scratch: Path) -> Any:
    """The result of paddlex_child.py; with `log`, what it said on stderr."""
    asked, answer = scratch / "job.json", scratch / "result.json"
    asked.write_text(json.dumps(job), encoding="utf-8")
    done = run_there(repo, "tests/support/paddlex_child.py", asked, answer)
    assert done.returncode == 0, done.stderr[-4000:]
    return {**json.loads(answer.read_text(encoding="utf-8")), "log": done.stderr}


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
    write_detector_yml(folder)
    return folder


def write_detector_yml(folder: Path) -> None:
    """What PaddleX writes beside a detector of three inputs, 64 x 96 pixels."""
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
