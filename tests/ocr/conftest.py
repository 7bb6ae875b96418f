"""The default pipeline on its measured engines, for all tests of reading."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from serving.config import load_config
from serving.ocr.pipeline import Pipeline
from serving.plan.load import open_pipeline


@pytest.fixture(scope="package")
def pipeline(built: Path, repo: Path) -> Iterator[Pipeline]:
    """Opened cold: its tests read too few pages for the warming to pay."""
    config = load_config(repo / "configs/PP-OCRv4_mobile.yaml")
    pipeline = open_pipeline(config, models=built, warm=False)
    yield pipeline
    pipeline.close()
