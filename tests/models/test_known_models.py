"""The models of wheels: real ones, as the manifest's sources and templates bring them."""

from __future__ import annotations

import pytest

from serving.config.model import RecognitionModel, load_model
from serving.models.store import Store


@pytest.mark.parametrize(
    ("name", "classes", "spaces"),
    [
        ("en_PP-OCRv4_mobile_rec", 97, 2),  # its dictionary has one too
        ("PP-OCRv5_mobile_rec", 18385, 1),
        ("PP-OCRv6_tiny_rec", 6906, 1),
    ],
)
def test_a_recogniser_has_a_class_for_each_character(
    model_store: Store, name: str, classes: int, spaces: int
) -> None:
    """The dictionary, the blank before it and the space after it. No line end is part of one."""
    import onnxruntime

    model_store.fetch(name)
    folder = model_store.folder(name)
    session = onnxruntime.InferenceSession(folder / "inference.onnx")
    model = load_model(folder, name, "text_recognition")
    assert isinstance(model, RecognitionModel)
    assert session.get_outputs()[0].shape[-1] == len(model.characters) == classes
    assert not set("\r\n") & set("".join(model.characters))
    assert model.characters.count(" ") == spaces
    assert len(set(model.characters)) == classes - spaces + 1
