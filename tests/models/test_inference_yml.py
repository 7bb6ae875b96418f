"""Dictionaries, and the inference.yml that carries them."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from serving.config.model import RecognitionModel, load_model
from serving.errors import FetchError
from serving.models.inference_yml import (
    characters_of_onnx,
    characters_of_text,
    write_inference_yml,
)

# Characters that lines, YAML and protobuf are tempted to treat otherwise.
HARD = [
    "'",
    '"',
    "\\",
    "#",
    "-",
    ":",
    "~",
    "0",
    "n",
    "yes",
    "null",
    "\u3000",
    "\x85",
    "\u2028",
    "🛅",
]
TEMPLATE = {"PostProcess": {"name": "CTCLabelDecode", "character_dict": []}}


def onnx_file(path: Path, **metadata: str) -> Path:
    import onnx

    graph = onnx.helper.make_graph([], "g", [], [])
    model = onnx.helper.make_model(graph, producer_name="test")
    onnx.helper.set_model_props(model, metadata)
    onnx.save(model, path)
    return path


def test_a_dictionary_of_lines(tmp_path: Path) -> None:
    path = tmp_path / "keys.txt"
    for end in ("", "\n"):
        path.write_bytes(("\n".join(HARD) + end).encode())
        assert characters_of_text(path) == HARD
    path.write_bytes("\ufeffa\r\nb\r\n".encode())
    assert characters_of_text(path) == ["a", "b"]


def test_a_dictionary_in_a_graph(tmp_path: Path) -> None:
    path = onnx_file(tmp_path / "g.onnx", shape="48", character="\n".join(HARD))
    assert characters_of_onnx(path) == HARD
    assert characters_of_onnx(onnx_file(tmp_path / "none.onnx", shape="48")) is None


@pytest.mark.parametrize(
    "content", [b"graph", b"\x72\xff\xff\xff\x7f", b"\x80", b"\x72\x02\x0a\x09"]
)
def test_no_onnx_at_all(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "g.onnx"
    path.write_bytes(content)
    with pytest.raises(FetchError, match="not a readable ONNX"):
        characters_of_onnx(path)


@given(characters=st.lists(st.characters(codec="utf-8", exclude_characters="\n"), min_size=1))
def test_inference_yml_gives_back_every_character(
    tmp_path_factory: pytest.TempPathFactory, characters: list[str]
) -> None:
    folder = tmp_path_factory.mktemp("yml")
    write_inference_yml(folder, "some_rec", TEMPLATE, [*HARD, *characters])
    text = (folder / "inference.yml").read_text(encoding="utf-8")
    for loader in (yaml.SafeLoader, yaml.CSafeLoader):
        found = yaml.load(text, Loader=loader)
        assert found["PostProcess"]["character_dict"] == [*HARD, *characters]
        assert found["Global"]["model_name"] == "some_rec"
    assert TEMPLATE["PostProcess"]["character_dict"] == []


PADDLEOCR_3 = """\
PreProcess:
  transform_ops:
  - DecodeImage: {channel_first: false, img_mode: BGR}
  - MultiLabelEncode: {gtc_encode: NRTRLabelEncode}
  - RecResizeImg: {image_shape: [3, 48, 320]}
  - KeepKeys: {keep_keys: [image, label_ctc, label_gtc, length, valid_ratio]}
PostProcess:
  name: CTCLabelDecode
  character_dict: ['0', '1', ä]
"""
"""As tools/export_model.py writes it: the steps of the evaluation, and no name of PaddleX's."""


def test_an_export_of_paddleocr_3_is_a_model_folder(tmp_path: Path) -> None:
    (tmp_path / "inference.yml").write_text(PADDLEOCR_3, encoding="utf-8")
    model = load_model(tmp_path, "PP-OCRv4_mobile_rec", "text_recognition")
    assert isinstance(model, RecognitionModel)
    assert (model.height, model.width, model.normalisation.order) == (48, 320, "BGR")
    assert model.characters == ("", "0", "1", "ä", " ")


def test_a_recogniser_needs_its_characters(tmp_path: Path) -> None:
    with pytest.raises(FetchError, match="no dictionary"):
        write_inference_yml(tmp_path, "some_rec", TEMPLATE, None)
