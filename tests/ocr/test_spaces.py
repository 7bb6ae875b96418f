"""Spaces that the recogniser saw too faintly: where they are put, and where never."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image, ImageDraw

from benchmarks import corpus
from benchmarks.corpus.fonts import CHINESE, LATIN, Face, load_font
from serving.config.model import RecognitionModel, load_model
from serving.config.pipeline import MODULE_NAMES
from serving.engines.base import EngineSpec
from serving.engines.factory import open_engine
from serving.imaging.crop import crop
from serving.models.store import Store
from serving.ocr.ctc import (
    ascii_punctuation,
    character_steps,
    letter_steps,
    restore_spaces,
    text_at,
)
from serving.ocr.recognise import Recogniser
from serving.plan.graphs import Graphs
from serving.scores import Overlap, token_overlap

CHARACTERS = ("", *map(chr, range(0x21, 0x7F)), "é", "字", "，", " ")
SURE, FAINT, NONE = 0.9, 0.1, 1e-4


def spaced(path: list[int], space: list[float], min_space: float = 0.03) -> list[int]:
    steps = character_steps(path, len(CHARACTERS))
    return list(restore_spaces(path, steps, space, CHARACTERS, min_space))


def text_of(path: list[int]) -> str:
    return text_at(character_steps(path, len(CHARACTERS)), path, CHARACTERS)


def restored(line: str, *, seen: float = FAINT) -> str:
    """What becomes of a line read without its gaps; `_` is a gap where a space was `seen`."""
    index, space = [0], [NONE]
    for character in line:
        if character == "_":
            index.append(0)
            space.append(seen)
        else:
            index += [CHARACTERS.index(character), 0]
            space += [SURE if character == " " else NONE, NONE]
    return text_of(spaced(index, space))


@pytest.mark.parametrize(
    ("line", "text"),
    [
        ("", ""),
        ("_The_Bakery_", "The Bakery"),
        ("Tel._030-12_Café_3", "Tel. 030-12 Café 3"),
        ("one two_three", "one two three"),
        ("one_ two", "one two"),  # a space that was read is not doubled
        ("all_lamps", "all lamps"),  # a letter twice is still there twice
        ("May_4,_2009_at_10:_30", "May 4, 2009 at 10:30"),
        ("Total_206_.63", "Total 206.63"),
        ("73._00_1_,_234._50", "73.00 1,234.50"),
        ("RM_2_.80_-_11._20", "RM 2.80 - 11.20"),
        ("18_/03_/_18_15_:17", "18/03/18 15:17"),
        ("2018_-_03-_26", "2018-03-26"),
        ("Tel._03-_40212008", "Tel. 03-40212008"),
        ("HD05_-_24", "HD05 - 24"),  # on both sides
        ("1._Item_2_._B", "1. Item 2. B"),
        ("RM1,_234._56_Total:_7", "RM1,234.56 Total: 7"),
        ("to_a_@_b-c.com_or_2_@_6.50", "to a@b-c.com or 2 @ 6.50"),
        ("http:_//a._b/c", "http://a.b/c"),
        ("._._.", "..."),
        ("字_字_ABC_字_，_D", "字字ABC字，D"),
    ],
)
def test_a_faint_space_is_put_between_latin_words_alone(line: str, text: str) -> None:
    assert restored(line) == text


def test_what_is_hardly_seen_is_no_space() -> None:
    assert restored("in_side", seen=0.005) == "inside"


def test_the_least_probability_is_the_pipelines() -> None:
    path, space = [1, 0, 2], [NONE, FAINT, NONE]
    assert len(character_steps(spaced(path, space, 0.05), len(CHARACTERS))) == 3
    assert spaced(path, space, 0.12) == path


def test_what_two_steps_saw_counts_together() -> None:
    assert restored("in__side", seen=0.02) == "in side"


def test_a_step_without_a_number_puts_nothing() -> None:
    for beyond in (len(CHARACTERS), 1 << 20):
        path = [1, beyond, 0, 2]
        assert spaced(path, [0.0, float("nan"), 0.0, 0.0]) == path


@given(st.lists(st.tuples(st.integers(0, len(CHARACTERS)), st.floats(0, 1, width=32)), max_size=60))
def test_no_other_character_changes(read: list[tuple[int, float]]) -> None:
    path = [step for step, _ in read]
    found = spaced(path, [seen for _, seen in read])
    text, after = text_of(path), text_of(found)
    assert after.replace(" ", "") == text.replace(" ", "")
    assert after.count("  ") == text.count("  ")
    at = character_steps(found, len(CHARACTERS))
    assert len(letter_steps(at, found, CHARACTERS)) == len(after)


@pytest.fixture(scope="module")
def recogniser(model_store: Store) -> Recogniser:
    folder = model_store.folder("PP-OCRv4_mobile_rec")
    model = load_model(folder, folder.name, MODULE_NAMES["TextRecognition"])
    assert isinstance(model, RecognitionModel)
    graph = Graphs(model_store.root).build(folder, model)
    return Recogniser(open_engine(graph, EngineSpec("onnxruntime")), model, min_space=0.03)


def printed(text: str, face: Face, size: int = 20) -> np.ndarray:
    """A line cut as close as a detector cuts it."""
    font = load_font(face, size)
    left, top, right, bottom = font.getbbox(text, anchor="ls")
    page = Image.new("RGB", (round(right - left) + 4, round(bottom - top) + 4), "white")
    ImageDraw.Draw(page).text((2 - left, 2 - top), text, font=font, fill="black", anchor="ls")
    return np.asarray(page)[:, :, ::-1].copy()


@pytest.mark.parametrize("face", [LATIN[0], LATIN[1], CHINESE[0]])
@pytest.mark.parametrize(
    "text",
    [
        "The final invoice was approved before noon",
        "Please note that our meeting is on Monday",
        "Unit 4 at 5842 Station Road near Fairview 48759",
        "Contract K4471 of 2019-10-26 remains payable",
    ],
)
def test_printed_words_are_parted(recogniser: Recogniser, text: str, face: Face) -> None:
    plain = replace(recogniser, min_space=None).read(printed(text, face))
    read = recogniser.read(printed(text, face))
    assert read.score == plain.score
    assert read.text.split() == text.split()


def test_more_words_of_a_page_are_read(recogniser: Recogniser) -> None:
    plain = replace(recogniser, min_space=None)
    before, after = Overlap(), Overlap()
    for page in corpus.pages(seed=6, count=1):
        for line in page.lines:
            picture, _ = crop(page.image, np.array(line.quad, np.int32))
            old, new = plain.read(picture).text, recogniser.read(picture).text
            assert "".join(new.split()) == "".join(old.split())
            before += token_overlap([line.text], [old])
            after += token_overlap([line.text], [new])
    assert before.f1 < 0.75
    assert after.f1 > 0.85


@pytest.mark.parametrize(
    "text", ["总计1,234.56元，共12箱", "双方同意在2024年3月之前完成全部货物", "电话0571-88217730"]
)
@pytest.mark.parametrize("face", CHINESE)
def test_chinese_lines_stay_as_they_are(recogniser: Recogniser, text: str, face: Face) -> None:
    plain = replace(recogniser, min_space=None).read(printed(text, face))
    assert recogniser.read(printed(text, face)) == plain
    assert " " not in plain.text


def test_words_stand_where_their_line_has_them(recogniser: Recogniser) -> None:
    text = "The final invoice was approved"
    page = printed(text, LATIN[0])
    read = recogniser.read(page, words=True)
    assert "".join(word.text for word in read.words) == read.text
    assert read.text.split() == text.split()
    edges = [edge for word in read.words for edge in (word.start, word.end)]
    assert edges == sorted(edges)
    font = load_font(LATIN[0], 20)
    for word in read.words:
        if not word.text.isspace():
            left = 2 + font.getlength(text[: text.index(word.text)])
            assert word.start * page.shape[1] == pytest.approx(left, abs=14)


@pytest.mark.parametrize(
    ("read", "written"),
    [
        ("Total： RM 5。00（net）", "Total: RM 5.00(net)"),
        ("总计：5，共", "总计：5，共"),
        ("こんにちは！", "こんにちは！"),
        ("Größe：10", "Größe:10"),
        ("plain, text.", "plain, text."),
    ],
)
def test_full_width_punctuation_of_latin_lines_is_ascii(read: str, written: str) -> None:
    assert ascii_punctuation(read) == written
