"""`ocr-hpi predict` on a pipeline without models."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from http_fake import FakeReader, picture
from PIL import Image

from serving.cli.predict import command


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Two images, a document of two pages and a broken file; no models are loaded."""
    monkeypatch.setattr("serving.api.open_pipeline", lambda *_, **__: FakeReader())
    (tmp_path / "a.png").write_bytes(picture(40))
    (tmp_path / "b.png").write_bytes(picture(50))
    (tmp_path / "c.tif").write_bytes(picture(60, kind="TIFF", pages=2))
    (tmp_path / "broken.png").write_bytes(picture()[:60])
    return tmp_path


def predict(*arguments: Any) -> Any:
    return CliRunner().invoke(command, [str(argument) for argument in arguments])


def test_text(folder: Path) -> None:
    done = predict(folder / "a.png", folder / "c.tif")
    assert done.exit_code == 0, done.output
    assert done.stdout == "fake 40x20 字\nfake 60x20 字\nfake 60x20 字\n"


def test_json_is_one_line_per_page(folder: Path) -> None:
    done = predict(folder / "a.png", folder / "c.tif", "--format", "json")
    pages = [json.loads(line) for line in done.stdout.splitlines()]
    assert [(Path(page["path"]).name, page["page"], page["width"]) for page in pages] == [
        ("a.png", 0, 40),
        ("c.tif", 0, 60),
        ("c.tif", 1, 60),
    ]
    [line] = pages[0]["lines"]
    assert line["data"] == "fake 40x20 字"
    assert line["box"] == [[1, 2], [40, 2], [40, 20], [1, 20]]


def test_paddlex(folder: Path) -> None:
    done = predict(folder / "a.png", "--format", "paddlex")
    assert json.loads(done.stdout)["res"]["rec_texts"] == ["fake 40x20 字"]


def test_pictures(folder: Path) -> None:
    done = predict(folder / "b.png", "--save-img", folder / "out")
    assert done.exit_code == 0, done.output
    [saved] = (folder / "out").iterdir()
    with Image.open(saved) as image:
        assert image.size == (100, 20)


def test_a_broken_file_is_reported_and_the_others_are_read(folder: Path) -> None:
    done = predict(folder / "broken.png", folder / "nobody.png", folder / "a.png")
    assert done.exit_code == 1
    assert done.stdout == "fake 40x20 字\n"
    errors = done.stderr.splitlines()
    assert len(errors) == 2
    assert "broken.png" in errors[0]
    assert "nobody.png" in errors[1]


def test_wrong_usage(folder: Path) -> None:
    assert predict().exit_code == 2
    assert predict(folder / "a.png", "--format", "xml").exit_code == 2
