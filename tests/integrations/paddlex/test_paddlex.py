"""PaddleX and PaddleOCR on our engines, held against PaddleX's own ONNX Runtime engine."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import cv2
import pytest
import yaml
from paddlex_env import ask_child

from benchmarks import corpus
from serving.scores import character_overlap

EQUAL_LINES = 0.995
IMPOSSIBLE = [
    {"backend": "om"},
    {"auto_config": False},
    {"auto_config": False, "backend": "tensorrt"},
    {"backend": "openvino", "backend_config": {"cpu_threads": 2}},
    {"backend": "openvino", "backend_config": {"use_dynamic_shapes": True}},
    {"backend_config": {"dynamic_shapes": {"x": [[1, 3, 32, 32]] * 3}}},
    {"hpi_info": {"backend_configs": {}}},
]
MODELS = ("PP-OCRv4_mobile_det", "PP-OCRv4_mobile_rec")


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
    """The upper half of a clean Chinese page and of a degraded English one."""
    pages, ends = [], (484, 410)  # each between two lines
    for sample, end in zip(list(corpus.pages(seed=3, count=4))[2:], ends, strict=True):
        pages.append(scratch / f"{sample.name}.png")
        cv2.imwrite(str(pages[-1]), sample.image[:end])
    return pages


@pytest.fixture(scope="module")
def few_lines(rendered: list[Path], scratch: Path) -> Path:
    path = scratch / "few.png"
    cv2.imwrite(str(path), cv2.imread(str(rendered[0]))[:200])
    return path


@pytest.fixture(scope="module")
def job(
    built: Path,
    default_yaml: Path,
    without_orientation: Path,
    rendered: list[Path],
    few_lines: Path,
) -> dict[str, Any]:
    return {
        "tasks": ["texts", "named", "results", "refused", "unknown"],
        "models": str(built),
        "yaml": str(without_orientation),
        "default": str(default_yaml),
        "pages": [str(path) for path in rendered],
        "few_lines": str(few_lines),
        "doors": ["plain", "paddlex", "paddleocr", "by row", "unplanned"],
        "impossible": IMPOSSIBLE,
    }


@pytest.fixture(scope="module")
def result(repo: Path, job: dict[str, Any], scratch: Path) -> Any:
    return ask_child(repo, job, scratch)


def equal_lines(read: list[list[str]], wanted: list[list[str]]) -> float:
    common = sum((Counter(a) & Counter(b)).total() for a, b in zip(read, wanted, strict=True))
    return common / max(sum(map(len, read)), sum(map(len, wanted)))


@pytest.mark.parametrize("door", ["paddleocr", "by row", "unplanned"])
def test_in_float32_reads_what_paddlex_reads(result: Any, door: str) -> None:
    plain = result["texts"]["plain"]
    assert min(map(len, plain)) > 15
    assert equal_lines(result["texts"][door], plain) >= EQUAL_LINES


def test_on_the_plans_engines_reads_the_same_characters(result: Any) -> None:
    """The plan was measured on the fused graph; what it promises holds for PaddleX's own graph."""
    read = zip(result["texts"]["paddlex"], result["texts"]["plain"], strict=True)
    assert all(character_overlap(plain, ours).f1 >= 0.98 for ours, plain in read)


def test_the_engines_are_the_plans(result: Any, built: Path) -> None:
    """The texts above are these engines'. What is chosen when: test_choice.py."""
    engines = result["engines"]
    # The detector on one stream, because PaddleX makes one call at a time.
    assert engines["paddlex"][0].split()[-1].startswith("1x")
    # Which backend won does not matter; the gate `exact` allows only float32.
    assert [spec.split()[1] for spec in engines["paddleocr"]] == 2 * ["float32"]
    assert [spec.split()[:2] for spec in engines["unplanned"]] == 2 * [["openvino", "float32"]]
    # PaddleOCR hands PaddleX settings for Paddle that would hide `hpi_config`.
    assert engines["by row"] == 2 * ["openvino float32 2x1"]
    assert result["loaded"] == []


def test_models_are_found_in_the_folder_that_the_environment_names(result: Any) -> None:
    """On the plans' engines, and PaddleX's log says why."""
    assert result["named"] == result["texts"]["paddlex"][0]
    for model in MODELS:
        assert f"{model} runs on " in result["log"]
    assert "the fastest in the plans under" in result["log"]


def test_our_results_are_used_as_paddlexs_are(result: Any) -> None:
    """Keys, types and shapes, and the names of the files that they save."""
    theirs, ours = result["results"]["theirs"], result["results"]["ours"]
    del theirs["types"]["vis_fonts"]  # with which PaddleX draws
    assert ours == theirs


def test_a_model_without_a_plan_is_told_once(result: Any) -> None:
    for model in MODELS:
        (said,) = [
            line
            for line in result["log"].splitlines()
            if line.startswith(f"{model}: runs on") and "no engine plan" in line
        ]
        assert "bash scripts/build_engines.sh PIPELINE.yaml" in said


def test_reads_a_real_page_as_paddlex_does(
    repo: Path, job: dict[str, Any], scratch: Path, shared_data: Path
) -> None:
    form = [str(path) for path in sorted((shared_data / "funsd").glob("*.png"))[:1]]
    real = {**job, "tasks": ["texts"], "pages": form, "doors": ["plain", "paddleocr"]}
    texts = ask_child(repo, real, scratch)["texts"]
    assert equal_lines(texts["paddleocr"], texts["plain"]) >= EQUAL_LINES


def test_what_cannot_be_is_refused(result: Any) -> None:
    om, no_backend, tensorrt, unknown_key, *shapes, info = result["refused"]
    assert "hpi_config" in om and "openvino" in om
    assert no_backend.startswith("ConfigError: PP-OCRv4_mobile_det: hpi_config.auto_config")
    assert "tensorrt" in tensorrt
    assert "cpu_threads" in unknown_key and "cpu_num_threads" in unknown_key
    for said, key in zip(shapes, ("use_dynamic_shapes", "dynamic_shapes"), strict=True):
        start = f"ConfigError: PP-OCRv4_mobile_det: hpi_config.backend_config.{key}: "
        assert said.startswith(start) and said.endswith(f"remove {key}")
    assert "hpi_config: hpi_info: unknown key" in info
    assert "ch_ppocr_mobile_v2.0_cls" in result["unknown"]
    assert "use_textline_orientation: False" in result["unknown"]
