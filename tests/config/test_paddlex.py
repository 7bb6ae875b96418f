"""Which YAML PaddleX runs, and what is checked of it."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from serving.config.paddlex import PaddleXConfig, load_served
from serving.config.pipeline import PipelineConfig
from serving.errors import ConfigError

DETECTION = {"model_name": "PP-OCRv4_mobile_seal_det", "model_dir": None}
SEAL_OCR = {
    "pipeline_name": "OCR",
    "text_type": "seal",
    "use_textline_orientation": False,
    "SubModules": {
        "TextDetection": DETECTION,
        "TextLineOrientation": {"model_name": "PP-LCNet_x0_25_textline_ori"},
        "TextRecognition": {"model_name": "mine", "model_dir": "~/mine"},
    },
}
SEAL = {
    "pipeline_name": "seal_recognition",
    "use_doc_preprocessor": False,
    "use_layout_detection": False,
    "SubModules": {"LayoutDetection": {"model_name": "PP-DocLayout-L"}},
    "SubPipelines": {
        "DocPreprocessor": {"SubModules": {"DocUnwarping": {"model_name": "UVDoc"}}},
        "SealOCR": SEAL_OCR,
    },
}
USED = [("PP-OCRv4_mobile_seal_det", None), ("mine", Path.home() / "mine")]


def written(folder: Path, data: object) -> Path:
    path = folder / "p.yaml"
    path.write_text(yaml.safe_dump(data), encoding="utf-8")
    return path


@pytest.mark.parametrize(("data", "results"), [(SEAL, "sealRecResults"), (SEAL_OCR, "ocrResults")])
def test_what_is_not_plain_ocr_is_paddlexs(
    tmp_path: Path, data: dict[str, object], results: str
) -> None:
    config = load_served(written(tmp_path, data))
    assert isinstance(config, PaddleXConfig)
    assert config.results == results
    assert config.models() == USED  # what the YAML turns off is not fetched


def test_a_section_counts_unless_it_is_off(tmp_path: Path) -> None:
    config = load_served(written(tmp_path, {**SEAL, "use_layout_detection": True}))
    assert ("PP-DocLayout-L", None) in config.models()


def test_sections_of_a_wrong_type_name_no_model(tmp_path: Path) -> None:
    odd = {**SEAL, "SubModules": ["x"], "SubPipelines": {7: {"SubModules": 7}, "x": None}, 8: False}
    config = load_served(written(tmp_path, odd))
    assert config.models() == []


def test_plain_ocr_is_ours(repo: Path) -> None:
    for path in (repo / "configs").glob("*.yaml"):
        assert isinstance(load_served(path), PipelineConfig)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ({"pipeline_name": "ts_forecast"}, "'ts_forecast' is not served; served are .*seal_recog"),
        ({"pipeline_name": ["x"]}, "pipeline_name: .* is not served"),
        (["x"], "a pipeline is a mapping"),
        (
            {**SEAL_OCR, "SubModules": {"TextDetection": {"model_dir": "x"}}},
            "SubModules.TextDetection: model_name: missing",
        ),
        (
            {**SEAL_OCR, "SubModules": {"TextDetection": {**DETECTION, "model_dir": 7}}},
            "SubModules.TextDetection: model_dir: .* not 7",
        ),
    ],
)
def test_what_cannot_be_served_is_refused_by_name(
    tmp_path: Path, data: object, message: str
) -> None:
    path = written(tmp_path, data)
    with pytest.raises(ConfigError, match=f"{path}: .*{message}|{path}: {message}"):
        load_served(path)
