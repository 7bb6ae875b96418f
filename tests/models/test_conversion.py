"""Paddle to ONNX, checked against Paddle itself."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from serving.errors import ConversionError, ModelInvalid
from serving.models import conversion
from serving.models.conversion_child import rounds
from serving.models.files import model_files
from serving.models.probe import draw_text, image_sizes
from serving.models.store import Store
from serving.progress import Lines

DETECTOR = """\
PreProcess:
  transform_ops:
  - DecodeImage: {channel_first: false, img_mode: BGR}
  - DetResizeForTest: null
  - NormalizeImage: {mean: [0.5, 0.5, 0.5], std: [0.5, 0.5, 0.5], scale: 1./255., order: hwc}
PostProcess: {name: DBPostProcess}
"""

# A build environment that converts to x + 1, and says that Paddle computes x + 1 + WRONG.
STAND_IN = """\
import numpy as np, onnx, sys
from onnx import TensorProto as T, helper as h
graph, weights, work, sizes, opset = sys.argv[3:]
x = np.load(work + "/text.npy").astype("float32").transpose(2, 0, 1)[None] / 255 - 1
np.savez(work + "/inputs.npz", **{"0.x": x})
np.savez(work + "/outputs.npz", **{"0.0": x + 1 + WRONG})
shape = ["N", 3, "H", "W"]
one = h.make_tensor("one", T.FLOAT, [], [1.0])
g = h.make_graph([h.make_node("Add", ["x", "one"], ["y"])], "g",
                 [h.make_tensor_value_info("x", T.FLOAT, shape)],
                 [h.make_tensor_value_info("y", T.FLOAT, shape)], [one])
onnx.save(h.make_model(g, opset_imports=[h.make_opsetid("", int(opset))], ir_version=8),
          work + "/model.onnx")
"""


@pytest.fixture
def paddle_model(tmp_path: Path) -> Path:
    """A folder that looks like a detector's; only a real Paddle looks into its graph."""
    folder = tmp_path / "my_det"
    folder.mkdir()
    (folder / "inference.yml").write_text(DETECTOR)
    (folder / "inference.json").write_text("{}")
    (folder / "inference.pdiparams").write_bytes(b"weights")
    return folder


def stand_in(tmp_path: Path, code: str) -> Path:
    """A program instead of the build environment's Python."""
    python = tmp_path / "python"
    python.write_text(f"#!{sys.executable}\n{code}")
    python.chmod(0o755)
    return python


@pytest.fixture
def build_python(repo: Path) -> Path:
    """The Python of the build environment. It is missing where there is only Python 3.13."""
    try:
        return conversion.find_build_python(repo)
    except ConversionError as error:
        pytest.skip(str(error))


# A graph that Paddle 3 writes: inference.json, with a shape that is computed.
PADDLE_3 = """\
import paddle, sys

class Net(paddle.nn.Layer):
    def __init__(self):
        super().__init__()
        self.conv = paddle.nn.Conv2D(3, 4, 3, stride=2, padding=1)

    def forward(self, x):
        y = paddle.nn.functional.hardswish(self.conv(x))
        n, c, h, w = y.shape
        y = y.reshape([n, c * 2, h // 2, w]).transpose([0, 2, 3, 1])
        return paddle.nn.functional.sigmoid(y)

paddle.seed(0)
shape = paddle.static.InputSpec([None, 3, None, None], "float32", "x")
paddle.jit.save(paddle.jit.to_static(Net(), input_spec=[shape]), sys.argv[1] + "/inference")
"""


def test_a_graph_of_paddle_3(build_python: Path, paddle_model: Path, tmp_path: Path) -> None:
    (paddle_model / "inference.json").unlink()
    script = tmp_path / "net.py"  # paddle reads the source of what it traces
    script.write_text(PADDLE_3)
    subprocess.run([build_python, script, paddle_model], check=True, capture_output=True)
    assert (paddle_model / "inference.json").exists()
    conversion.to_onnx(paddle_model, tmp_path / "out.onnx", python=build_python)
    assert (tmp_path / "out.onnx").exists()


def test_the_real_models(build_python: Path, model_store: Store, tmp_path: Path) -> None:
    """Each of the three computes in ONNX what it computes in Paddle."""
    for name in ("PP-OCRv4_mobile_det", "PP-OCRv4_mobile_rec", "ch_ppocr_mobile_v2.0_cls"):
        folder = model_store.folder(name)
        if model_files(folder).paddle is None:
            pytest.skip(f"{name} was fetched as ONNX")
        graph = conversion.onnx_graph(folder, tmp_path, python=build_python)
        assert graph == conversion.converted_path(folder, tmp_path)
        assert not conversion.needs_conversion(folder, tmp_path)
    assert sum(path.suffix == ".onnx" for path in (tmp_path / "onnx").iterdir()) == 3


def test_an_onnx_model_is_used_as_it_is(paddle_model: Path, tmp_path: Path) -> None:
    own = paddle_model / "inference.onnx"
    own.write_bytes(b"graph")
    assert conversion.onnx_graph(paddle_model, tmp_path / "engines") == own
    assert not conversion.needs_conversion(paddle_model, tmp_path / "engines")
    assert not (tmp_path / "engines").exists()


def test_a_conversion_is_kept_and_found_again(paddle_model: Path, tmp_path: Path) -> None:
    python = stand_in(tmp_path, f"WRONG = 0.0005\n{STAND_IN}")
    engines = tmp_path / "engines"
    assert conversion.needs_conversion(paddle_model, engines)
    made = conversion.onnx_graph(paddle_model, engines, python=python)
    python.unlink()
    assert conversion.onnx_graph(paddle_model, engines, python=python) == made
    (paddle_model / "inference.pdiparams").write_bytes(b"fine-tuned")
    assert conversion.needs_conversion(paddle_model, engines)


def test_another_result_than_paddles_is_not_kept(paddle_model: Path, tmp_path: Path) -> None:
    python = stand_in(tmp_path, f"WRONG = 0.002\n{STAND_IN}")
    out = tmp_path / "out.onnx"
    with pytest.raises(ConversionError, match=r"differ from Paddle's by 0\.002 \(opset 17, 14, 11"):
        conversion.to_onnx(paddle_model, out, python=python)
    assert not out.exists()


def test_no_number_is_no_agreement(paddle_model: Path, tmp_path: Path) -> None:
    python = stand_in(tmp_path, f"WRONG = float('nan')\n{STAND_IN}")
    with pytest.raises(ConversionError, match="by inf"):
        conversion.to_onnx(paddle_model, tmp_path / "out.onnx", python=python)


def test_an_older_opset_is_tried(paddle_model: Path, tmp_path: Path) -> None:
    refuse = "import sys\nif sys.argv[-1] == '17': sys.exit('no such operator')\nWRONG = 0\n"
    out = tmp_path / "out.onnx"
    with (tmp_path / "messages").open("w") as messages:
        conversion.to_onnx(
            paddle_model,
            out,
            python=stand_in(tmp_path, refuse + STAND_IN),
            progress=Lines(messages),
        )
    assert out.exists()
    assert "opset 14" in (tmp_path / "messages").read_text()


def test_a_crash_shows_its_last_line_and_keeps_the_log(paddle_model: Path, tmp_path: Path) -> None:
    code = "import os\nprint('first', flush=True)\nprint('last words', flush=True)\nos.abort()"
    out = tmp_path / "out" / "x.onnx"
    with pytest.raises(ConversionError, match=r"ended with -6: last words .*x\.log"):
        conversion.to_onnx(paddle_model, out, python=stand_in(tmp_path, code))
    assert "first" in out.with_suffix(".log").read_text()
    assert {path.suffix for path in out.parent.iterdir()} == {".log", ".lock"}


def test_what_takes_too_long_is_stopped(paddle_model: Path, tmp_path: Path) -> None:
    python = stand_in(tmp_path, "import time\ntime.sleep(600)")
    with pytest.raises(ConversionError, match="no result within"):
        conversion.to_onnx(paddle_model, tmp_path / "out.onnx", python=python, timeout=0.1)


def test_what_a_killed_run_left_is_removed(paddle_model: Path, tmp_path: Path) -> None:
    left = tmp_path / "engines" / "onnx"
    left.mkdir(parents=True)
    out = conversion.converted_path(paddle_model, tmp_path / "engines")
    (left / f".{out.name}-abc").mkdir()
    conversion.onnx_graph(
        paddle_model, tmp_path / "engines", python=stand_in(tmp_path, f"WRONG = 0\n{STAND_IN}")
    )
    names = {out.name, f"{out.name}.sha256", f".{out.name}.lock"}
    assert {path.name for path in left.iterdir()} == names


def test_no_build_environment(
    paddle_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("OCR_HPI_BUILD_PYTHON", raising=False)
    with pytest.raises(ConversionError, match=r"bash scripts/build_engines\.sh"):
        conversion.find_build_python(tmp_path)
    python = stand_in(tmp_path, "")
    monkeypatch.setenv("OCR_HPI_BUILD_PYTHON", str(python))
    assert conversion.find_build_python(tmp_path) == python


def test_an_incomplete_model_is_an_error(paddle_model: Path, tmp_path: Path) -> None:
    (paddle_model / "inference.pdiparams").unlink()
    with pytest.raises(ModelInvalid, match=r"lacks inference\.pdiparams"):
        conversion.onnx_graph(paddle_model, tmp_path)
    (paddle_model / "inference.pdiparams").write_bytes(b"weights")
    (paddle_model / "inference.yml").write_text("PostProcess: {")
    with pytest.raises(ModelInvalid, match=r"inference\.yml: not valid YAML"):
        conversion.onnx_graph(paddle_model, tmp_path, python=stand_in(tmp_path, ""))


@pytest.mark.parametrize(
    ("name", "shapes"),
    [
        ("PP-OCRv4_mobile_det", [(1, 3, 480, 640), (2, 3, 320, 480)]),
        ("PP-OCRv4_mobile_rec", [(1, 3, 48, 320), (2, 3, 48, 416)]),
        ("ch_ppocr_mobile_v2.0_cls", [(1, 3, 48, 192), (2, 3, 48, 192)]),
    ],
)
def test_the_probe_is_a_picture_of_text(
    model_store: Store, tmp_path: Path, name: str, shapes: list[tuple[int, ...]]
) -> None:
    folder = tmp_path / name
    folder.mkdir()
    shutil.copy(model_store.folder(name) / "inference.yml", folder)
    image = {"name": "x", "shape": [-1, 3, -1, -1], "dtype": "float32"}
    text = draw_text(640, 640)
    inputs = [arrays["x"] for arrays in rounds([image], text, image_sizes(folder))]
    assert [array.shape for array in inputs] == shapes
    for array in inputs:
        assert array.dtype == np.float32
        assert array.std() > 0.2  # not blank
    assert [path.name for path in folder.iterdir()] == ["inference.yml"]


def test_the_checkouts_build_environment_is_found_from_any_folder(
    build_python: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("OCR_HPI_BUILD_PYTHON", raising=False)
    monkeypatch.chdir(tmp_path)
    assert conversion.find_build_python().samefile(build_python)
