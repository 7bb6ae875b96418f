"""Memory of a real server under mixed sizes, and how it is judged."""

from __future__ import annotations

import itertools
import json
import sys
from pathlib import Path

import cv2
import numpy as np
import pypdfium2
import pytest

from benchmarks.mixed import Mixed, pdf, scaled, sheet
from benchmarks.serve_servers import Ours
from benchmarks.soak import Big, Soak, soak
from benchmarks.soak_report import tables, write
from serving.errors import EngineError


def found(last: float) -> Soak:
    levels = [(second, 900.0 if second < 75 else last) for second in range(100)]
    big = Big("large", megapixels=24, pages=1, ms=2400, peak_mb=1200)
    return Soak({"machine": "here"}, (big,), 7, tuple((float(s), mb) for s, mb in levels))


@pytest.mark.parametrize(("last", "verdict"), [(920, "holds"), (940, "grows")])
def test_memory_is_judged_by_quarters(last: float, verdict: str, tmp_path: Path) -> None:
    soaked = found(last)
    assert soaked.growth == pytest.approx(last / 900 - 1)
    assert soaked.peak_mb == 1200
    big, memory = tables(soaked)
    assert big.rows == [("large", "24.0", "2400", "100", "1200")]
    assert f"Memory {verdict}" in memory.title
    files = write(tmp_path, soaked)
    assert json.loads(files[0].read_text())["holds"] is (verdict == "holds")
    assert cv2.imread(str(files[1])).shape[0] > 200


def test_mixed_sizes_are_mixed_and_repeat() -> None:
    originals = [np.full((900, 700, 3), 255, np.uint8)]
    files = list(itertools.islice(Mixed(originals, seed=3), 12))
    assert files[:4] == list(itertools.islice(Mixed(originals, seed=3), 4))
    pages = [cv2.imdecode(np.frombuffer(file, np.uint8), cv2.IMREAD_COLOR) for file in files]
    sides = [side for page in pages for side in page.shape[:2]]
    assert min(sides) >= 200
    assert max(sides) <= 6000
    assert len({page.shape for page in pages}) == 12
    assert max(sides) > 5 * min(sides)


def test_sheets_and_documents() -> None:
    page = np.full((30, 20, 3), 200, np.uint8)
    assert sheet(page, 3).shape == (90, 60, 3)
    assert scaled(page, 60, 40).shape == (60, 40, 3)
    document = pypdfium2.PdfDocument(pdf(page, 3))
    assert len(document) == 3
    document.close()


def test_a_server_that_does_not_start_says_why(tmp_path: Path) -> None:
    with pytest.raises(EngineError, match=r"does not get ready: .*absent\.yaml"):
        Ours(tmp_path / "absent.yaml", tmp_path, Path(sys.executable))


def test_a_server_under_mixed_sizes(repo: Path, built: Path) -> None:
    soaked = soak(repo / "configs/PP-OCRv4_mobile.yaml", built, 0.05, enlarged=2, pdf_pages=2)
    assert [big.pages for big in soaked.big] == [1, 1, 1, 1, 2]
    assert all(big.ms > 0 for big in soaked.big)
    assert soaked.pages >= 2
    assert 100 < soaked.peak_mb < 4000
    assert soaked.memory[-1][0] >= 2
