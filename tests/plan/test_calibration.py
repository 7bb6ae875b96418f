from __future__ import annotations

from contextlib import closing
from pathlib import Path

import pytest

from serving.config import load_config
from serving.config.model import RecognitionModel
from serving.engines.base import EngineSpec
from serving.engines.factory import open_fused
from serving.errors import ConfigError
from serving.models.pipeline_models import pipeline_models
from serving.ocr.recognise import Recogniser
from serving.plan.calibration import calibration_hash, calibration_set
from serving.plan.graphs import Graphs


def test_the_shipped_set_is_what_recorded_plans_were_measured_on() -> None:
    """A new hash makes every plan anew: change it only with the set."""
    shipped = calibration_set()
    assert shipped.to_dict() == {
        "hash": "cdad9793e8185898",
        "pages": 15,
        "own_pages": 0,
        "lines": 665,
        "characters": 12252,
    }
    assert len(shipped.crops) == len(shipped.texts)


def test_the_users_pages_come_beside_and_change_the_hash(tmp_path: Path) -> None:
    source = Path(__file__).parents[2] / "serving" / "data" / "calibration"
    page = source / "letter-en-1-0.webp"
    (tmp_path / "mine.webp").write_bytes(page.read_bytes())
    (tmp_path / "labels.json").write_text("{}", encoding="utf-8")
    own = calibration_set(tmp_path)
    assert [image.shape for image in own.own_pages] == [(1187, 1290, 3)]
    assert own.texts == calibration_set().texts
    assert own.hash == calibration_hash(tmp_path) != calibration_hash()
    (tmp_path / "mine.webp").rename(tmp_path / "renamed.webp")
    assert calibration_hash(tmp_path) != own.hash
    with pytest.raises(ConfigError, match="no such folder"):
        calibration_hash(tmp_path / "absent")


def test_the_single_characters_of_the_set_are_read(built: Path, repo: Path) -> None:
    """The gate compares with a reference that reads them: what both lost, it would not see."""
    config = load_config(repo / "configs/PP-OCRv4_mobile.yaml")
    part = next(
        part for part in pipeline_models(config, built) if part.section == "TextRecognition"
    )
    assert isinstance(part.model, RecognitionModel)
    whole = calibration_set()
    singles = [pair for pair in zip(whole.crops, whole.texts, strict=True) if len(pair[1]) == 1]
    assert len(singles) >= 160
    assert {text for _, text in singles} >= set("0123456789")
    graph = Graphs(built).find(part.folder, part.model)
    with closing(open_fused(graph, EngineSpec("onnxruntime"), part.model)) as engine:
        reader = Recogniser(engine, part.model, min_space=None)
        right = sum(reader.read(crop).text == text for crop, text in singles)
    assert right / len(singles) >= 0.96
