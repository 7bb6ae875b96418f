"""Pipeline YAML: PaddleX's keys mean what they mean there; errors name file, key and fix."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest
import yaml
from pipeline_yaml import minimal

from serving.config import load_config, parse_config
from serving.config.pipeline import HpiConfig, check_supported
from serving.errors import ConfigError, ModelInvalid
from serving.models.pipeline_models import pipeline_models
from serving.models.store import Store
from serving.plan.build import plan_inputs


def test_shipped_pipelines_parse(repo: Path) -> None:
    shipped = sorted((repo / "configs").glob("*.yaml"))
    assert [path.stem for path in shipped] == [
        "PP-OCRv4_mobile",
        "PP-OCRv4_server",
        "PP-OCRv5_mobile",
        "PP-OCRv6_small",
        "PP-OCRv6_tiny",
    ]
    for path in shipped:
        config = load_config(path)
        assert config.enable_hpi and config.sub_modules.recognition.restore_spaces
        assert [name.split("_")[-1] for name, _ in config.models()] == [
            "orientation",
            "det",
            "cls",
            "rec",
        ]
        assert {name for name, _ in config.models()} <= Store("models").manifest.models.keys()


def test_absent_keys_take_paddlex_defaults_and_null_leaves_it_to_the_model() -> None:
    absent = parse_config(minimal(), source="x.yaml").sub_modules.detection
    assert (absent.limit_side_len, absent.limit_type) == (960, "max")
    assert (absent.thresh, absent.box_thresh, absent.unclip_ratio) == (0.3, 0.6, 2.0)
    data = minimal()
    data["SubModules"]["TextDetection"]["thresh"] = None  # type: ignore[index]
    assert parse_config(data, source="x.yaml").sub_modules.detection.thresh is None


def test_paddlex_own_default_yaml_parses() -> None:
    # Every section and key of the OCR.yaml that PaddleX 3.7 ships.
    text = """
    pipeline_name: OCR
    text_type: general
    use_doc_preprocessor: True
    use_textline_orientation: True
    SubPipelines:
      DocPreprocessor:
        pipeline_name: doc_preprocessor
        use_doc_orientation_classify: True
        use_doc_unwarping: True
        SubModules:
          DocOrientationClassify: {module_name: doc_text_orientation, model_dir: null,
            model_name: PP-LCNet_x1_0_doc_ori}
          DocUnwarping: {module_name: image_unwarping, model_name: UVDoc, model_dir: null}
    SubModules:
      TextDetection: {module_name: text_detection, model_name: PP-OCRv6_medium_det, model_dir: null,
        limit_side_len: 64, limit_type: min, max_side_limit: 4000, thresh: 0.3, box_thresh: 0.6,
        unclip_ratio: 1.5}
      TextLineOrientation: {module_name: textline_orientation, model_dir: null, batch_size: 6,
        model_name: PP-LCNet_x1_0_textline_ori}
      TextRecognition: {module_name: text_recognition, model_name: PP-OCRv6_medium_rec,
        model_dir: null, batch_size: 6, score_thresh: 0.0}
    """
    config = parse_config(yaml.safe_load(text), source="OCR.yaml")
    assert config.sub_modules.detection.limit_type == "min"
    assert [name for name, _ in config.models()] == [
        "PP-LCNet_x1_0_doc_ori",
        "UVDoc",
        "PP-OCRv6_medium_det",
        "PP-LCNet_x1_0_textline_ori",
        "PP-OCRv6_medium_rec",
    ]
    check_supported(config)
    assert config.enable_hpi  # absent: True here
    recognition = config.sub_modules.recognition  # keys of our own, absent: as PaddleX
    assert not recognition.restore_spaces and not recognition.ascii_punctuation


@pytest.mark.parametrize(("value", "minimum"), [(True, 0.03), (False, None), (0.12, 0.12)])
def test_restore_spaces_is_a_switch_or_a_probability(value: object, minimum: float | None) -> None:
    data = minimal()
    data["SubModules"]["TextRecognition"]["restore_spaces"] = value  # type: ignore[index]
    assert parse_config(data, source="x").sub_modules.recognition.min_space == minimum


def test_use_hpip_is_enable_hpi() -> None:
    assert not parse_config(minimal(use_hpip=False), source="x").enable_hpi
    with pytest.raises(ConfigError, match="same key"):
        parse_config(minimal(use_hpip=False, enable_hpi=True), source="x")


@pytest.mark.parametrize(
    ("section", "key", "value", "message"),
    [
        ("TextDetection", "limit_typ", "max", "did you mean limit_type"),
        ("TextDetection", "limit_type", "middle", "'min', 'max' or 'resize_long'"),
        ("TextDetection", "thresh", 2, "must be at most 1, not 2"),
        ("TextDetection", "thresh", "0.3", "must be a number, not '0.3'"),
        ("TextDetection", "limit_side_len", 960.5, "must be a whole number"),
        ("TextDetection", "deskew", "no", "must be true or false, not 'no'"),
        ("TextRecognition", "return_word_box", 1, "must be true or false, not 1"),
        ("TextRecognition", "score_thresh", None, "must be a number, not null"),
        ("TextRecognition", "batch_size", 0, "must be at least 1, not 0"),
        ("TextRecognition", "restore_spaces", 1, "True, False or a probability between 0 and 1"),
        ("TextRecognition", "hpi_config", {"backend": "om"}, "openvino"),
    ],
)
def test_a_wrong_key_or_value_names_file_key_and_what_is_allowed(
    section: str, key: str, value: object, message: str
) -> None:
    data = minimal()
    data["SubModules"][section][key] = value  # type: ignore[index]
    with pytest.raises(ConfigError) as caught:
        parse_config(data, source="mine.yaml")
    assert "mine.yaml" in str(caught.value)
    assert f"SubModules.{section}.{key}" in str(caught.value)
    assert message in str(caught.value)


def test_the_beta_form_is_answered_with_its_translation() -> None:
    beta = {
        "Global": {"pipeline_name": "OCR"},
        "Pipeline": {
            "det_model": "PP-OCRv4_server_det",
            "rec_model": "./mine",
            "rec_batch_size": 3,
        },
    }
    with pytest.raises(ConfigError, match="beta") as caught:
        parse_config(beta, source="old.yaml")
    translated = yaml.safe_load(str(caught.value).partition("it is:\n")[2])
    config = parse_config(translated, source="new.yaml")
    assert config.models() == [("PP-OCRv4_server_det", None), ("PP-OCRv4_mobile_rec", Path("mine"))]
    assert config.sub_modules.recognition.batch_size == 3


def test_a_shipped_pipeline_is_found_anywhere_and_the_working_folders_file_wins(
    repo: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    name = Path("configs/PP-OCRv4_mobile.yaml")
    config = load_config(name)
    assert config.source == str(name)
    assert config.sub_modules == load_config(repo / name).sub_modules
    for other in (tmp_path / name, name.name, f"mine/{name.name}"):
        with pytest.raises(ConfigError, match=f"no such file; .*{name}, .*PP-OCRv6_tiny.yaml$"):
            load_config(other)
    name.parent.mkdir()
    name.write_text("pipeline_name: table_recognition")
    with pytest.raises(ConfigError, match="not plain OCR"):
        load_config(name)


def test_missing_files_and_other_pipelines_are_clear(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no such file"):
        load_config(tmp_path / "none.yaml")
    (tmp_path / "bad.yaml").write_text("a: [1")
    with pytest.raises(ConfigError, match="not valid YAML"):
        load_config(tmp_path / "bad.yaml")
    with pytest.raises(ConfigError, match="not plain OCR"):
        parse_config({"pipeline_name": "table_recognition"}, source="t.yaml")
    with pytest.raises(ConfigError, match="TextLineOrientation"):
        parse_config(minimal(use_textline_orientation=True), source="x.yaml")


@pytest.mark.parametrize(
    ("changes", "key", "section"),
    [
        ({}, "use_doc_preprocessor", "SubPipelines.DocPreprocessor"),
        (
            {"SubPipelines": {"DocPreprocessor": {"use_doc_unwarping": False}}},
            "use_doc_orientation_classify",
            "SubPipelines.DocPreprocessor.SubModules.DocOrientationClassify",
        ),
        (
            {"SubPipelines": {"DocPreprocessor": {"use_doc_orientation_classify": False}}},
            "use_doc_unwarping",
            "SubPipelines.DocPreprocessor.SubModules.DocUnwarping",
        ),
    ],
)
def test_a_document_preprocessor_without_its_section_is_refused(
    changes: dict[str, object], key: str, section: str
) -> None:
    with pytest.raises(ConfigError) as caught:
        parse_config(minimal(use_doc_preprocessor=True, **changes), source="x.yaml")
    said = f"x.yaml: {key} is True (absent means True), but {section} is missing"
    assert str(caught.value).startswith(said)
    assert f"set {key}: False" in str(caught.value)


@pytest.mark.parametrize("backend", ["paddle", "openvino", "onnxruntime", "tensorrt"])
def test_every_backend_is_supported(backend: str) -> None:
    check_supported(parse_config(minimal(hpi_config={"backend": backend}), source="x.yaml"))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"enable_hpi": False}, "enable_hpi: False"),
        ({"engine": "paddle"}, "engine: hpi_config.backend"),
        ({"engine_config": {"x": 1}}, "engine_config: .*backend_config"),
    ],
)
def test_an_unsupported_key_is_refused_by_name(changes: dict[str, object], message: str) -> None:
    config = parse_config(minimal(**changes), source="mine.yaml")
    with pytest.raises(ConfigError, match=f"mine.yaml: {message}"):
        check_supported(config)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("input_shape", [3, 48, 320]),
        ("engine", "paddle"),
        ("engine_config", {"x": 1}),
        ("genai_config", {"backend": "native"}),
        ("enable_hpi", False),
    ],
)
def test_an_unsupported_key_of_a_module_is_refused_by_name(key: str, value: object) -> None:
    data = minimal()
    data["SubModules"]["TextRecognition"][key] = value  # type: ignore[index]
    with pytest.raises(ConfigError, match=f"mine.yaml: .*{key}: "):
        check_supported(parse_config(data, source="mine.yaml"))


def test_a_key_without_effect_is_logged_once(caplog: pytest.LogCaptureFixture) -> None:
    data = minimal(Serving={"visualize": False}, batch_size=4)
    data["SubModules"]["TextRecognition"]["batch_size"] = 6  # type: ignore[index]
    data["SubModules"]["TextDetection"]["module_name"] = "object_detection"  # type: ignore[index]
    with caplog.at_level(logging.INFO):
        for _ in range(2):
            check_supported(parse_config(data, source="logged.yaml"))
    start = "logged.yaml: "
    assert [
        (record.levelname, record.getMessage().removeprefix(start).split(" has no effect")[0])
        for record in caplog.records
    ] == [
        ("INFO", "batch_size"),
        ("WARNING", "Serving"),
        ("WARNING", "SubModules.TextDetection.module_name: object_detection"),
        ("INFO", "SubModules.TextRecognition.batch_size"),
    ]


@pytest.mark.parametrize(
    ("backend_config", "message"),
    [
        ({"cpu_num_threads": 0}, "cpu_num_threads: must be at least 1"),
        ({"cpu_num_threads": -4}, "cpu_num_threads: must be at least 1"),
        ({"cpu_num_threads": "abc"}, "cpu_num_threads: must be a whole number, not 'abc'"),
        ({"streams": True}, "streams: must be a whole number"),
        ({"batch": 33}, "batch: must be at most 32"),
        ({"precision": "fp16"}, "precision: must be 'float32', .*'float16'.*, not 'fp16'"),
        ({"presicion": "float16"}, r"presicion: unknown key \(did you mean precision\?\)"),
        (5, "backend_config: must be a mapping of keys"),
    ],
)
@pytest.mark.parametrize("module", [False, True])
def test_a_wrong_backend_config_names_file_key_and_what_is_allowed(
    backend_config: object, message: str, module: bool
) -> None:
    hpi_config = {"backend_config": backend_config}
    data = minimal() if module else minimal(hpi_config=hpi_config)
    if module:
        data["SubModules"]["TextRecognition"]["hpi_config"] = hpi_config  # type: ignore[index]
    with pytest.raises(
        ConfigError, match=rf"mine\.yaml: .*hpi_config\.(backend_config\.)?{message}"
    ):
        parse_config(data, source="mine.yaml")


@pytest.mark.parametrize("key", ["source", "sub_modules", "doc_preprocessor", "serving"])
def test_names_of_the_python_code_are_no_keys(key: str) -> None:
    with pytest.raises(ConfigError, match=f"mine.yaml: {key}: unknown key") as caught:
        parse_config(minimal(**{key: {}}), source="mine.yaml")
    assert f" {key}," not in str(caught.value).partition("allowed here")[2]


def test_what_is_wrong_in_the_shared_hpi_config_is_named_once() -> None:
    """And not for every model that inherits it."""
    with pytest.raises(ConfigError) as caught:
        parse_config(minimal(hpi_config={"backend": "foo", "auto": 1}), source="mine.yaml")
    assert [part.split(": ")[1] for part in str(caught.value).split("; mine")] == [
        "hpi_config.backend",
        "hpi_config.auto",
    ]


def test_precisions_of_tensorrt_may_have_paddlex_names() -> None:
    hpi_config = {"backend": "tensorrt", "backend_config": {"precision": "fp16"}}
    config = parse_config(minimal(hpi_config=hpi_config), source="x.yaml")
    assert config.hpi_config.backend_config == {"precision": "float16"}


def test_shapes_of_tensorrt_parse_as_in_paddlex_and_are_refused_by_name() -> None:
    shapes = {"dynamic_shapes": {"x": [[1, 3, 32, 32], [1, 3, 32, 64], [1, 3, 32, 96]]}}
    hpi_config = {"backend": "tensorrt", "backend_config": shapes}
    config = parse_config(minimal(hpi_config=hpi_config), source="mine.yaml")
    with pytest.raises(ConfigError, match=r"mine\.yaml: hpi_config.*dynamic_shapes: "):
        check_supported(config)


def test_a_modules_hpi_config_is_merged_over_the_pipelines_as_in_paddlex() -> None:
    """Key by key, and no deeper: `backend_config` is replaced as a whole."""
    shared = {"backend": "tensorrt", "auto_paddle2onnx": False, "backend_config": {"streams": 2}}
    own = {"auto_config": False, "backend_config": {"precision": "fp16"}}
    data = minimal(hpi_config=shared)
    data["SubModules"]["TextRecognition"]["hpi_config"] = own  # type: ignore[index]
    config = parse_config(data, source="x")
    detection, recognition = map(config.hpi, config.modules)
    assert detection == config.hpi_config
    assert recognition == HpiConfig(
        auto_config=False,
        backend="tensorrt",
        backend_config={"precision": "float16"},
        auto_paddle2onnx=False,
    )
    own |= {"backend": None, "backend_config": None}
    recognition = parse_config(data, source="x").sub_modules.recognition
    assert recognition.hpi_config == HpiConfig(auto_config=False, auto_paddle2onnx=False)
    for empty in (None, {}):
        data["SubModules"]["TextRecognition"]["hpi_config"] = empty  # type: ignore[index]
        config = parse_config(data, source="x")
        assert config.hpi(config.sub_modules.recognition) == config.hpi_config


def test_the_document_preprocessor_inherits_hpi_config_too() -> None:
    module = {"model_name": "X", "hpi_config": {"auto_paddle2onnx": False}}
    document = {
        "use_doc_unwarping": False,
        "hpi_config": {"backend": "onnxruntime"},
        "SubModules": {"DocOrientationClassify": module},
    }
    data = minimal(
        use_doc_preprocessor=True,
        hpi_config={"backend": "openvino", "backend_config": {"streams": 2}},
        SubPipelines={"DocPreprocessor": document},
    )
    config = parse_config(data, source="x")
    orientation, detection, _ = map(config.hpi, config.modules)
    assert orientation == HpiConfig(
        backend="onnxruntime", backend_config={"streams": 2}, auto_paddle2onnx=False
    )
    assert detection == config.hpi_config
    del data["hpi_config"]
    orientation, detection, _ = (config := parse_config(data, source="x")).modules
    assert config.hpi(orientation) == HpiConfig(backend="onnxruntime", auto_paddle2onnx=False)
    assert config.hpi(detection) == HpiConfig()


def test_the_two_spellings_of_enable_hpi_exclude_each_other_everywhere() -> None:
    both = {"enable_hpi": True, "use_hpip": True}
    for document in (both, {"SubModules": {"DocOrientationClassify": {"model_name": "X", **both}}}):
        data = minimal(SubPipelines={"DocPreprocessor": document})
        with pytest.raises(ConfigError, match="same key"):
            parse_config(data, source="x")


def test_null_is_absent_where_paddlex_takes_it_so() -> None:
    assert parse_config(minimal(hpi_config=None, SubPipelines=None), source="x") == parse_config(
        minimal(), source="x"
    )


def test_a_model_dir_may_begin_with_the_home_folder(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/home/me")
    data = minimal()
    data["SubModules"]["TextRecognition"]["model_dir"] = "~/rec"  # type: ignore[index]
    assert parse_config(data, source="x").models()[1][1] == Path("/home/me/rec")
    data["SubModules"]["TextRecognition"]["model_dir"] = "~no-such-user/rec"  # type: ignore[index]
    with pytest.raises(ConfigError, match=r"TextRecognition\.model_dir: "):
        parse_config(data, source="x")


def test_a_missing_model_dir_is_told_with_the_key_and_where_it_was_looked_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    data = minimal()
    data["SubModules"]["TextDetection"]["model_dir"] = "mine/det"  # type: ignore[index]
    with pytest.raises(ModelInvalid) as caught:
        list(pipeline_models(parse_config(data, source="sub/mine.yaml"), tmp_path / "models"))
    assert str(caught.value) == (
        "sub/mine.yaml: SubModules.TextDetection.model_dir: mine/det: no such model folder "
        f"({tmp_path}/mine/det: it is relative to the working directory)"
    )


def test_what_no_engine_fits_names_the_file(model_store: Store) -> None:
    hpi_config = {"auto_config": False, "backend_config": {"streams": 1}}
    config = parse_config(minimal(hpi_config=hpi_config), source="mine.yaml")
    with pytest.raises(
        ConfigError, match=r"mine\.yaml, for TextDetection: hpi_config\.auto_config"
    ):
        plan_inputs(config, model_store.root, 2)
