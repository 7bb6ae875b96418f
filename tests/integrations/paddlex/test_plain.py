"""`enable_hpi: False`: the YAML by plain PaddleX, from our own commands."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest
import yaml
from click.testing import CliRunner
from paddlex_env import run_there

from serving import load_pipeline
from serving.cli import main
from serving.config import load_config
from serving.config.options import DEFAULT_OPTIONS, Options
from serving.errors import ConfigError, EngineError
from serving.integrations.paddlex.plain import paddlex_config, settings_in_force
from serving.models.store import Store


@pytest.fixture
def plain_yaml(repo: Path, tmp_path: Path) -> Path:
    """The default pipeline without line orientation, whose model PaddleX does not know."""
    data = yaml.safe_load((repo / "configs" / "PP-OCRv4_mobile.yaml").read_text(encoding="utf-8"))
    path = tmp_path / "plain.yaml"
    data |= {"enable_hpi": False, "use_textline_orientation": False}
    path.write_text(yaml.safe_dump(data), encoding="utf-8")
    return path


def test_predict_reads_it_where_paddlex_is(
    repo: Path, model_store: Store, plain_yaml: Path, tmp_path: Path
) -> None:
    command = ["-m", "serving.cli", "predict", "docs/page.jpg", "--format", "paddlex"]
    command += ["--save-img", str(tmp_path / "pictures"), "--order", "columns"]
    done = run_there(repo, *command, "--pipeline", plain_yaml, "--models", str(model_store.root))
    assert done.returncode == 0, done.stderr[-4000:]
    result = json.loads(done.stdout)["res"]
    assert result["rec_texts"][1].startswith("5279")
    assert len(result["rec_texts"]) == len(result["rec_polys"]) == len(result["rec_scores"]) > 10
    assert result["text_det_params"]["unclip_ratio"] == 1.5
    assert "plain PaddleX runs" in done.stderr and "on ONNX Runtime" in done.stderr
    assert list((tmp_path / "pictures").iterdir())


@pytest.mark.skipif("paddlex" in sys.modules, reason="PaddleX is here")
def test_where_paddlex_is_not_the_error_names_the_extra_and_the_command(plain_yaml: Path) -> None:
    with pytest.raises(EngineError) as error:
        load_pipeline(plain_yaml)
    said = str(error.value)
    assert said.startswith(f"{plain_yaml}: enable_hpi: False means plain PaddleX")
    assert ".venv-paddlex/bin/pip install '.[paddlex]'" in said
    assert "set enable_hpi: True" in said


def test_it_has_no_plan_and_is_not_served(plain_yaml: Path, tmp_path: Path) -> None:
    for command in (["build", str(plain_yaml)], ["plan", str(plain_yaml)]):
        done = CliRunner().invoke(main, [*command, "--models", str(tmp_path)])
        assert done.exit_code == 1
        assert "enable_hpi: False" in done.output and "ocr-hpi predict" in done.output


def test_only_paddlex_mixes_both(plain_yaml: Path) -> None:
    data = yaml.safe_load(plain_yaml.read_text(encoding="utf-8"))
    data["SubModules"]["TextDetection"]["enable_hpi"] = True
    plain_yaml.write_text(yaml.safe_dump(data), encoding="utf-8")
    with pytest.raises(ConfigError, match=r"serving\.integrations\.paddlex\.enable\(\)"):
        load_pipeline(plain_yaml)


def test_keys_that_are_ours_alone_do_not_reach_paddlex(
    plain_yaml: Path, model_store: Store
) -> None:
    data = yaml.safe_load(plain_yaml.read_text(encoding="utf-8"))
    data |= {"gate": "strict", "order": "columns"}
    own = {"restore_spaces": False, "ascii_punctuation": True}
    data["SubModules"]["TextRecognition"].update(own)
    plain_yaml.write_text(yaml.safe_dump(data), encoding="utf-8")
    config = paddlex_config(plain_yaml, models=model_store.root)
    assert not {"gate", "order"} & config.keys()
    assert not own.keys() & config["SubModules"]["TextRecognition"].keys()
    assert config["SubModules"]["TextRecognition"]["score_thresh"] == 0.0


@pytest.mark.parametrize("line", ["pipeline_name: table_recognition", "text_type: seal"])
def test_what_is_not_plain_ocr_is_sent_to_paddlex(plain_yaml: Path, line: str) -> None:
    plain_yaml.write_text(f"{line}\n")
    with pytest.raises(ConfigError, match=r"extra paddlex: `ocr-hpi serve`.*create_pipeline"):
        load_pipeline(plain_yaml)


def test_what_is_in_force(plain_yaml: Path) -> None:
    config = load_config(plain_yaml)
    said = settings_in_force(config, DEFAULT_OPTIONS)
    assert said["text_det_params"]["thresh"] == 0.3
    asked = Options(text_det_thresh=0.0, use_textline_orientation=True)
    said = settings_in_force(config, asked)
    assert said["text_det_params"]["thresh"] == 0.0
    assert said["model_settings"]["use_textline_orientation"] is True
