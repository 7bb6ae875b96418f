"""Labels in the forms of PaddleOCR, PPOCRLabel, truth.json and COCO-Text."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from serving.errors import ConfigError
from serving.evaluate.labels import read_labels

QUAD = ((0.0, 0.0), (9.0, 0.0), (9.0, 5.0), (0.0, 5.0))
FAR = ((20.0, 0.0), (29.0, 0.0), (29.0, 5.0), (20.0, 5.0))


def image(path: Path) -> Path:
    """A file that begins as a PNG does."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(b"\x89PNG\r\n\x1a\n")
    return path


def truth(folder: Path, *entries: Any) -> None:
    (folder / "truth.json").write_text(json.dumps(entries), encoding="utf-8")


def line(text: object, points: object = QUAD) -> dict[str, object]:
    return {"transcription": text, "points": points}


def test_paddleocrs_detection_file(tmp_path: Path) -> None:
    path = image(tmp_path / "images" / "a.png")
    labels = [line("中 A"), line("###", FAR), line("*", FAR)]
    file = tmp_path / "train.txt"
    file.write_text(f"images/a.png\t{json.dumps(labels)}\n\nimages/a.png\t[]\n", encoding="utf-8")
    found = read_labels(file)
    assert found.problems == []
    page, empty = found.pages
    assert (page.group, page.path, page.is_line) == ("train", path, False)
    assert (page.texts, page.boxes, page.ignored) == (("中 A",), (QUAD,), (FAR, FAR))
    assert (empty.texts, empty.boxes) == ((), ())


def test_paddleocrs_recognition_file(tmp_path: Path) -> None:
    image(tmp_path / "crops" / "a.png")
    file = tmp_path / "crops" / "rec_val.txt"  # paths that begin at the folder above
    file.write_bytes("\ufeffcrops/a.png\t A\t[b \r\ncrops/a.png\t\n".encode())
    first, second = read_labels(file).pages
    assert (first.texts, first.is_line) == ((" A\t[b ",), True)
    assert second.texts == ("",)


def test_ppocrlabels_folder(tmp_path: Path) -> None:
    folder = tmp_path / "receipts"
    image(folder / "a.png")
    image(folder / "crop_img" / "a_crop_0.png")
    (folder / "Label.txt").write_text(
        f"receipts/a.png\t{json.dumps([{**line('A'), 'difficult': False}])}\n"
    )
    (folder / "rec_gt.txt").write_text("crop_img/a_crop_0.png\tA\n")
    for data in (folder, tmp_path):
        found = [(page.group, page.is_line) for page in read_labels(data).pages]
        assert found == [("receipts/Label", False), ("receipts/rec_gt", True)]


def test_truth_json_of_one_folder_or_several(tmp_path: Path) -> None:
    for name, entry in {
        "forms": {"text": "A", "poly": [[0, 0], [9, 0], [9, 5], [0, 5]]},
        "webs": {"text": "*"},
    }.items():
        image(tmp_path / name / "a.png")
        truth(tmp_path / name, {"image": "a.png", "lines": [entry]})
    form, web = read_labels(tmp_path).pages
    assert (form.group, form.texts, form.boxes) == ("forms", ("A",), (QUAD,))
    assert (web.group, web.texts, web.boxes) == ("webs", ("*",), None)
    assert read_labels(tmp_path / "forms").pages == [form]
    assert read_labels(tmp_path, ["webs"]).pages == [web]


COCO_TEXT = {
    "imgs": {"1": {"id": 1, "file_name": "a.png"}},
    "anns": {
        "7": {"image_id": 1, "utf8_string": "A", "mask": [0, 0, 9, 0, 9, 5, 0, 5]},
        "8": {"image_id": 1, "legibility": "illegible", "bbox": [20, 0, 9, 5]},
    },
}
COCO = {
    "images": [{"id": "x", "file_name": "a.png"}],
    "annotations": [
        {"image_id": "x", "text": "A", "segmentation": [[0, 0, 9, 0, 9, 5, 0, 5]]},
        {"image_id": "x", "text": "###", "bbox": [20, 0, 9, 5]},
    ],
}


@pytest.mark.parametrize("document", [COCO_TEXT, COCO])
def test_coco_text(tmp_path: Path, document: dict[str, Any]) -> None:
    image(tmp_path / "a.png")
    file = tmp_path / "cocotext.json"
    file.write_text(json.dumps(document))
    (page,) = read_labels(file).pages
    assert (page.texts, page.boxes, page.ignored) == (("A",), (QUAD,), (FAR,))


WRONG_LINES = {
    "a.png": "no tab",
    "b.png\t[]": "b.png is neither in",
    "a.png\t[{": "Expecting",
    "a.png\t3": "not iterable",
    "a.png\t[3]": "not a list of objects",
    "a.png\t[{}]": "no 'text'",
    'a.png\t[{"transcription": 5}]': "not a text",
    'a.png\t[{"transcription": "A", "points": [[0, 0], [1, 1]]}]': "three corners",
    'a.png\t[{"transcription": "A", "points": [[0, 0], [1, 1], [NaN, 2]]}]': "three corners",
    'a.png\t[{"transcription": "A", "points": [[0, 0], [1], [1, 2]]}]': "three corners",
    "a.png\t" + "[" * 100_000: "recursion",
    "a.png\t[]\udcff": "utf-8",
    "x.npy\t[]": "x.npy: unsupported",
}


@pytest.mark.parametrize("wrong", WRONG_LINES)
def test_a_wrong_line_is_named_and_the_rest_goes_on(
    tmp_path: Path, wrong: str, caplog: pytest.LogCaptureFixture
) -> None:
    image(tmp_path / "a.png")
    (tmp_path / "x.npy").write_bytes(b"\x93NUMPY\x01\x00")
    good = f"a.png\t{json.dumps([line('A')])}"
    file = tmp_path / "det.txt"
    file.write_bytes("\n".join([good, wrong, good]).encode("utf-8", "surrogateescape"))
    found = read_labels(file)
    assert len(found.pages) == 2
    (problem,) = found.problems
    assert problem.startswith(f"{file}:2: ")
    assert problem in caplog.text
    file.write_bytes(f"{wrong}\n\t[{{".encode("utf-8", "surrogateescape"))
    with pytest.raises(ConfigError, match=rf"(?s)det\.txt:1: .*{WRONG_LINES[wrong]}"):
        read_labels(file)


def test_entries_of_json_are_named_too(tmp_path: Path) -> None:
    image(tmp_path / "a.png")
    truth(tmp_path, 3, {"image": "a.png", "lines": [{"text": "A"}]}, {"picture": 1})
    found = read_labels(tmp_path)
    assert len(found.pages) == 1
    assert [problem.split(": ")[1] for problem in found.problems] == ["entry 1", "entry 3"]
    file = tmp_path / "coco.json"
    annotations = [*COCO["annotations"], {"text": "B"}, 5]
    file.write_text(json.dumps({"images": [*COCO["images"], 7], "annotations": annotations}))
    found = read_labels(file)
    assert len(found.pages) == 1
    assert [problem.split(": ")[1] for problem in found.problems] == [
        "annotation 3", "annotation 4", "image 2",
    ]  # fmt: skip


def test_an_error_says_what_is_wrong_with_the_whole(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"no labels; give .*Label\.txt"):
        read_labels(tmp_path)
    with pytest.raises(ConfigError, match="no such file or folder"):
        read_labels(tmp_path / "absent")
    (tmp_path / "empty.txt").touch()
    with pytest.raises(ConfigError, match=r"empty\.txt: .*no labels in it"):
        read_labels(tmp_path / "empty.txt")
    image(tmp_path / "forms" / "a.png")
    truth(tmp_path / "forms", {"image": "a.png", "lines": []})
    with pytest.raises(ConfigError, match="receipts"):
        read_labels(tmp_path, ["receipts"])
    for content, reason in (("{", "cannot be read"), ("7", "neither"), ("{}", "lacks imgs")):
        (tmp_path / "forms" / "truth.json").write_text(content)
        with pytest.raises(ConfigError, match=reason):
            read_labels(tmp_path)
