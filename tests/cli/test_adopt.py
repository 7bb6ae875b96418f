"""`ocr-hpi adopt`, on the graph that is in every PaddleOCR 2 export: PP-OCRv4's, as ONNX.

tests/test_fine_tuned.py adopts it as Paddle exports it.
"""

from __future__ import annotations

from pathlib import Path

import onnx
import pytest
import yaml
from click.testing import CliRunner, Result

from serving import cli
from serving.config.model import RecognitionModel, load_model
from serving.models.conversion import onnx_graph
from serving.models.store import Store

REC = "PP-OCRv4_mobile_rec"


def adopt(models: Path, *arguments: object) -> Result:
    words = ["adopt", *map(str, arguments), "--models", str(models)]
    return CliRunner().invoke(cli.main, words)


@pytest.fixture(scope="module")
def characters(model_store: Store) -> list[str]:
    model = load_model(model_store.folder(REC), REC, "text_recognition")
    assert isinstance(model, RecognitionModel)
    return list(model.characters[1:-1])


@pytest.fixture
def export(built: Path, tmp_path: Path) -> Path:
    """An export without inference.yml."""
    graph = onnx_graph(Store(built).folder(REC), built / "engines")
    folder = tmp_path / "my_rec"
    folder.mkdir()
    (folder / "inference.onnx").symlink_to(graph)
    return folder


def dictionary(folder: Path, characters: list[str]) -> Path:
    path = folder.parent / "my_dict.txt"
    path.write_text("\n".join(characters) + "\n", encoding="utf-8")
    return path


def test_a_copy_gets_the_inference_yml_of_its_kind(
    export: Path, characters: list[str], tmp_path: Path
) -> None:
    keys = dictionary(export, characters)
    result = adopt(tmp_path / "models", export, "--kind", "rec", "--dict", keys)
    assert result.exit_code == 0, result.output
    assert "6625 classes are 6623 characters, the blank and the space" in result.stdout
    made = tmp_path / "models" / "my_rec"
    assert yaml.safe_load(result.stdout.split("\n\n")[1]) == {
        "TextRecognition": {"model_name": REC, "model_dir": str(made)}
    }
    model = load_model(made, REC, "text_recognition")
    assert isinstance(model, RecognitionModel)
    assert (model.height, model.width) == (48, 320)
    assert list(model.characters) == ["", *characters, " "]
    assert (made / "inference.onnx").read_bytes() == (export / "inference.onnx").read_bytes()
    assert [path.name for path in export.iterdir()] == ["inference.onnx"]  # only read


def test_a_model_without_the_space(export: Path, characters: list[str], tmp_path: Path) -> None:
    """As `use_space_char: False` trains one: the last class is missing."""
    graph = export / "inference.onnx"
    model = onnx.load(graph)
    for weight in model.graph.initializer:
        array = onnx.numpy_helper.to_array(weight)
        if array.shape[-1:] == (6625,):
            weight.CopyFrom(onnx.numpy_helper.from_array(array[..., :-1].copy(), weight.name))
    model.graph.output[0].type.tensor_type.shape.dim[-1].dim_value = 6624
    del model.graph.value_info[:]
    graph.unlink()
    onnx.save(model, graph)
    keys = dictionary(export, characters)
    result = adopt(tmp_path / "models", export, "--kind", "rec", "--dict", keys)
    assert result.exit_code == 0, result.output
    assert "6624 classes are 6623 characters, the blank and no space" in result.stdout


def test_another_models_dictionary(export: Path, characters: list[str], tmp_path: Path) -> None:
    keys = dictionary(export, characters[:-1])
    result = adopt(tmp_path / "models", export, "--kind", "rec", "--dict", keys)
    assert result.exit_code == 1
    assert "not adopted as --kind rec" in result.stderr
    assert "One of 6623 characters would fit, or of 6624 without use_space_char" in result.stderr
    assert not (tmp_path / "models" / "my_rec").exists()


def test_the_shape_and_the_names(export: Path, characters: list[str], tmp_path: Path) -> None:
    keys = dictionary(export, characters)
    options = ("--shape", "3,48,640", "--name", "longer", "--model-name", "PP-OCRv3_mobile_rec")
    for _ in range(2):  # the same again changes nothing
        result = adopt(tmp_path / "models", export, "--kind", "rec", "--dict", keys, *options)
        assert result.exit_code == 0, result.output
    written = yaml.safe_load((tmp_path / "models/longer/inference.yml").read_text("utf-8"))
    assert written["Global"]["model_name"] == "PP-OCRv3_mobile_rec"
    assert {"RecResizeImg": {"image_shape": [3, 48, 640]}} in written["PreProcess"]["transform_ops"]
    result = adopt(tmp_path / "models", export, "--kind", "rec", "--dict", keys, "--name", "longer")
    assert "another model of this name is there" in result.stderr
    result = adopt(tmp_path / "models", export, "--kind", "rec", "--dict", keys, "--name", REC)
    assert f"{REC} is a published model" in result.stderr


def test_without_a_build_environment_the_build_checks(
    model_store: Store,
    characters: list[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A Paddle graph, which only that environment can convert."""
    monkeypatch.setenv("OCR_HPI_BUILD_PYTHON", str(tmp_path / "none"))
    export = tmp_path / "my_rec"
    export.mkdir()
    for name in ("inference.pdmodel", "inference.pdiparams"):
        (export / name).write_bytes(b"graph")
    keys = dictionary(export, characters)
    result = adopt(tmp_path / "models", export, "--kind", "rec", "--dict", keys)
    assert result.exit_code == 0, result.output
    assert "copied, not checked" in result.stdout


def test_a_graph_of_another_kind_or_none_at_all(export: Path, tmp_path: Path) -> None:
    def error(kind: str) -> str:
        result = adopt(tmp_path / "models", export, "--kind", kind)
        assert result.exit_code == 1
        return result.stderr

    assert "has 6625 classes, not 2" in error("cls")
    assert "ends in Softmax, not in the Sigmoid of a DB detector" in error("det")
    (export / "inference.onnx").unlink()
    (export / "inference.onnx").write_bytes(b"graph")
    assert "not a readable ONNX file" in error("det")
    assert not (tmp_path / "models" / "my_rec").exists()


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("--kind", "rec"), "--dict FILE is for --kind rec"),
        (("--kind", "det", "--dict", __file__), "--dict FILE is for --kind rec"),
        (("--kind", "det", "--shape", "3,48,320"), "a detector takes pages of any size"),
        (("--kind", "rec", "--dict", __file__, "--shape", "48,320"), "is not 3,HEIGHT,WIDTH"),
        (("--kind", "table"), "Invalid value for '--kind'"),
    ],
)
def test_wrong_usage(tmp_path: Path, arguments: tuple[str, ...], words: str) -> None:
    result = adopt(tmp_path / "models", tmp_path, *arguments)
    assert result.exit_code == 2
    assert words in result.stderr


def test_what_is_no_export(model_store: Store, tmp_path: Path) -> None:
    """Each error names the folder that is meant, or what to do first."""

    def error(folder: Path) -> str:
        result = adopt(tmp_path / "models", folder, "--kind", "det")
        assert result.exit_code == 1
        return result.stderr

    output = tmp_path / "output"  # of a training with PaddleX
    (output / "best_accuracy").mkdir(parents=True)
    (output / "best_accuracy" / "best_accuracy.pdparams").write_bytes(b"weights")
    assert "tools/export_model.py" in error(output / "best_accuracy")
    (output / "best_accuracy" / "inference").symlink_to(model_store.folder("PP-OCRv4_mobile_det"))
    for folder in (output, output / "best_accuracy"):
        assert f"{output}/best_accuracy/inference is the model" in error(folder)
    assert "has its inference.yml: set model_dir" in error(output / "best_accuracy" / "inference")
    assert "no such model folder" in error(tmp_path / "absent")


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "no dictionary"),
        (b"a\n\xff\n", "not UTF-8, from byte 2"),
        (b"a\n" * (3 << 20), "larger"),
    ],
)
def test_a_file_that_is_no_dictionary(
    export: Path, tmp_path: Path, content: bytes, words: str
) -> None:
    keys = tmp_path / "keys.txt"
    keys.write_bytes(content)
    result = adopt(tmp_path / "models", export, "--kind", "rec", "--dict", keys)
    assert result.exit_code == 1
    assert words in result.stderr
