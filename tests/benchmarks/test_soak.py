"""Memory of a real server under mixed sizes, and how it is judged."""

from __future__ import annotations

import itertools
import json
from pathlib import Path

import cv2
import numpy as np
import pypdfium2
import pytest

from benchmarks.report import soak_tables, write_soak
from benchmarks.servers import OurServer
from benchmarks.soak import LargeInput, Soak, mixed_pages, pdf, resize, soak, tile
from serving.errors import EngineError


def soaked(last: float) -> Soak:
    """A server that holds 900 MB, and `last` in the last quarter."""
    levels = [(second, 900.0 if second < 75 else last) for second in range(100)]
    large = LargeInput("large", megapixels=24, pages=1, ms=2400, peak_mb=1200)
    return Soak((large,), 7, tuple((float(s), mb) for s, mb in levels))


@pytest.mark.parametrize(("last", "verdict"), [(920, "is stable"), (940, "grows")])
def test_memory_is_judged_by_quarters(last: float, verdict: str, tmp_path: Path) -> None:
    result = soaked(last)
    assert result.growth == pytest.approx(last / 900 - 1)
    assert result.peak_mb == 1200
    large, memory = soak_tables(result)
    assert large.rows == [("large", "24.0", "2400", "100", "1200")]
    assert f"Memory {verdict}" in memory.title
    files = write_soak(tmp_path, result, {"machine": "here"})
    assert json.loads(files[0].read_text())["stable"] is (last == 920)
    assert "machine: here" in files[1].read_text()
    assert cv2.imread(str(files[2])).shape[0] > 200


def test_mixed_sizes_are_mixed_and_repeat() -> None:
    originals = [np.full((900, 700, 3), 255, np.uint8)]
    files = list(itertools.islice(mixed_pages(originals, seed=3), 12))
    assert files[:4] == list(itertools.islice(mixed_pages(originals, seed=3), 4))
    pages = [cv2.imdecode(np.frombuffer(file, np.uint8), cv2.IMREAD_COLOR) for file in files]
    sides = [side for page in pages for side in page.shape[:2]]
    assert min(sides) >= 200
    assert max(sides) <= 6000
    assert len({page.shape for page in pages}) == 12
    assert max(sides) > 5 * min(sides)


def test_tiles_sizes_and_documents() -> None:
    page = np.full((30, 20, 3), 200, np.uint8)
    assert tile(page, 3).shape == (90, 60, 3)
    assert resize(page, 60, 40).shape == (60, 40, 3)
    document = pypdfium2.PdfDocument(pdf(page, 3))
    assert len(document) == 3
    document.close()


def test_a_server_that_does_not_start_says_why(tmp_path: Path) -> None:
    with pytest.raises(EngineError, match=r"did not become ready: .*absent\.yaml"):
        OurServer({"accurate": tmp_path / "absent.yaml"}, tmp_path)


def test_a_server_under_mixed_sizes(repo: Path, unwarmed: Path) -> None:
    result = soak(repo / "configs/PP-OCRv4_mobile.yaml", unwarmed, 0.05, scale=2, pdf_pages=2)
    assert [item.pages for item in result.large] == [1, 1, 1, 1, 2]
    assert all(item.ms > 0 for item in result.large)
    assert result.pages >= 2
    assert 100 < result.peak_mb < 4000
    assert result.memory[-1][0] >= 2
