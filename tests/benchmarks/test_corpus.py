from __future__ import annotations

import json
import random

import numpy as np
import pytest
from fontTools.ttLib import TTFont
from PIL import Image

from benchmarks import corpus
from benchmarks.corpus import Sample, fonts
from benchmarks.corpus.canvas import wrap
from benchmarks.corpus.texts import Writer, load_lists
from benchmarks.render_calibration import FOLDER


@pytest.fixture(scope="module")
def calibration() -> list[Sample]:
    """The calibration set as rendered now: half of the pages degraded."""
    return corpus.calibration()


def test_calibration_is_large_and_half_of_it_degraded(calibration: list[Sample]) -> None:
    # The page of single characters is clean; of the others half are degraded.
    pages = [page for page in calibration if not page.name.startswith("singles")]
    lines = [(line, page.degraded) for page in pages for line in page.lines]
    characters = sum(len(line.text) for line, _ in lines)
    assert len(lines) >= 400
    assert characters >= 12_000
    assert 0.4 < sum(degraded for _, degraded in lines) / len(lines) < 0.6
    assert 0.4 < sum(len(line.text) for line, bad in lines if bad) / characters < 0.6


def test_calibration_holds_both_scripts_and_spaces(calibration: list[Sample]) -> None:
    text = "\n".join(line.text for page in calibration for line in page.lines)
    assert sum("\u4e00" <= character <= "\u9fff" for character in text) > 2000
    assert text.count(" ") > 1000
    assert len(set(text)) > 400


def test_every_quad_holds_ink_and_lies_on_the_page(calibration: list[Sample]) -> None:
    for page in calibration:
        height, width = page.image.shape[:2]
        assert page.image.dtype == np.uint8
        for line in page.lines:
            xs, ys = [x for x, _ in line.quad], [y for _, y in line.quad]
            assert min(xs) >= 0 and max(xs) <= width, (page.name, line)
            assert min(ys) >= 0 and max(ys) <= height, (page.name, line)
            inside = page.image[min(ys) : max(ys) + 1, min(xs) : max(xs) + 1]
            assert np.ptp(inside) > 60, (page.name, line)
            assert line.text.strip() == line.text != ""


def test_the_same_seed_gives_the_same_pages_and_another_others() -> None:
    first, again, other = (list(corpus.pages(seed=seed, count=4)) for seed in (3, 3, 4))
    for a, b, c in zip(first, again, other, strict=True):
        assert (a.name, a.lines, a.degraded) == (b.name, b.lines, b.degraded)
        assert np.array_equal(a.image, b.image)
        assert a.lines != c.lines


def test_every_second_page_is_degraded() -> None:
    pages = list(corpus.pages(seed=5, count=5))
    assert [page.degraded for page in pages] == [False, True, False, True, False]
    assert all(700 <= page.image.shape[1] <= 1700 for page in pages if not page.degraded)


def test_lines_are_crops_of_one_line() -> None:
    crops = list(corpus.lines(seed=1, count=24))
    assert [crop.degraded for crop in crops] == [False, True] * 12
    assert all(len(crop.lines) == 1 for crop in crops)
    assert all(16 <= crop.image.shape[0] <= 72 for crop in crops)


def test_the_shipped_set_says_what_the_renderer_writes(calibration: list[Sample]) -> None:
    # Texts only: pixels depend on the versions of Pillow, NumPy and OpenCV.
    shipped = json.loads((FOLDER / "truth.json").read_text(encoding="utf-8"))
    assert [[line["text"] for line in page["lines"]] for page in shipped] == [
        [line.text for line in page.lines] for page in calibration
    ]
    for page, sample in zip(shipped, calibration, strict=True):
        with Image.open(FOLDER / page["image"]) as image:
            assert image.size == sample.image.shape[1::-1]


@pytest.mark.parametrize("face", fonts.CHINESE)
def test_chinese_faces_have_every_character_of_the_texts(face: fonts.Face) -> None:
    known = set(TTFont(fonts.font_path(face)).getBestCmap())
    lists = load_lists()
    for slots in lists.values():
        for entries in slots.values():
            assert not {c for entry in entries for c in entry if ord(c) not in known}
    writer = Writer(random.Random(0), "zh", lists)
    assert not {c for _ in range(300) for c in writer.pick("rare") if ord(c) not in known}


@pytest.mark.parametrize("face", fonts.LATIN)
def test_latin_faces_have_every_character_of_english(face: fonts.Face) -> None:
    known = set(TTFont(fonts.font_path(face)).getBestCmap())
    for entries in load_lists()["en"].values():
        assert not {c for entry in entries for c in entry if ord(c) not in known}
    assert {ord(c) for c in "€£$%§éüß"} <= known


def test_the_main_face_covers_gb2312() -> None:
    known = set(TTFont(fonts.font_path(fonts.CHINESE[0])).getBestCmap())
    rows = ((high, low) for high in range(0xB0, 0xF8) for low in range(0xA1, 0xFF))
    hanzi = [bytes(pair).decode("gb2312", "ignore") for pair in rows]
    assert sum(map(len, hanzi)) == 6763
    assert {ord(character) for character in "".join(hanzi)} <= known


def test_a_paragraph_is_broken_at_spaces_and_never_before_a_full_stop() -> None:
    font = fonts.load_font("NotoSansCJKsc-Regular.otf", 20)
    english = wrap("the quick brown fox jumps over it", font, 120)
    assert " ".join(english) == "the quick brown fox jumps over it"
    assert all(font.getlength(line) <= 120 for line in english)
    chinese = wrap("双方同意在之前完成。合同金额，共计", font, 180)
    assert "".join(chinese) == "双方同意在之前完成。合同金额，共计"
    assert chinese[0].endswith("。")
