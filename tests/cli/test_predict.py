"""`ocr-hpi predict` on a pipeline without models."""

from __future__ import annotations

import errno
import io
import json
import os
import pty
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pypdfium2
import pytest
from click.testing import CliRunner
from http_fake import FakeReader, document, picture
from imaging_files import paper, pdf, stream
from PIL import Image

from serving import load_pipeline
from serving.cli import main
from serving.config.options import Options
from serving.errors import TooLarge

ROOT = Path(__file__).resolve().parents[2]
YAML = ROOT / "configs" / "PP-OCRv4_mobile.yaml"


@pytest.fixture
def reader(monkeypatch: pytest.MonkeyPatch) -> FakeReader:
    reader = FakeReader()
    monkeypatch.setattr("serving.api.open_pipeline", lambda *_, **__: reader)
    monkeypatch.setattr("serving.cli.predict.DEFAULT_PIPELINES", [])
    return reader


@pytest.fixture
def folder(tmp_path: Path, reader: FakeReader, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Two images, a document of two pages and a broken file; no models are loaded."""
    monkeypatch.chdir(tmp_path)
    folder = tmp_path / "in"
    folder.mkdir()
    (folder / "a.png").write_bytes(picture(40))
    (folder / "b.png").write_bytes(picture(50))
    (folder / "c.tif").write_bytes(picture(60, kind="TIFF", pages=2))
    (folder / "broken.png").write_bytes(picture()[:60])
    return folder


def predict(*arguments: Any, **options: Any) -> Any:
    command = ["predict", "--pipeline", str(YAML), *map(str, arguments)]
    return CliRunner().invoke(main, command, **options)


def files(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())


def test_text_of_one_image_is_its_lines(folder: Path) -> None:
    done = predict(folder / "a.png")
    assert done.exit_code == 0, done.output
    assert (done.stdout, done.stderr) == ("fake 40x20 字\n", "")


def test_text_is_parted_by_file_and_page(folder: Path) -> None:
    done = predict("in/a.png", "in/c.tif")
    assert done.exit_code == 0, done.output
    assert done.stdout == (
        "==> in/a.png <==\nfake 40x20 字\n==> in/c.tif <==\nfake 60x20 字\n\ffake 60x20 字\n"
    )
    assert done.stderr == "2 files read (3 pages)\n"


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


def test_paddlex_is_one_line_per_page(folder: Path) -> None:
    done = predict(folder / "c.tif", "--format", "paddlex")
    pages = [json.loads(line)["res"] for line in done.stdout.splitlines()]
    assert [page["page_index"] for page in pages] == [0, 1]
    assert pages[1]["rec_texts"] == ["fake 60x20 字"]
    assert pages[1]["input_path"] == str(folder / "c.tif")


@pytest.mark.parametrize(
    ("form", "suffix", "page"), [("hocr", ".hocr", "ocr_page"), ("alto", ".alto.xml", "<Page ")]
)
def test_a_document_format_holds_all_pages_of_an_input(
    folder: Path, tmp_path: Path, reader: FakeReader, form: str, suffix: str, page: str
) -> None:
    done = predict(folder / "c.tif", "--format", form)
    assert done.exit_code == 0, done.output
    assert len(re.findall(f'{page}"|{page}ID', done.stdout)) == 2
    assert reader.seen[-1].return_word_box
    several = predict(folder, "--format", form)
    assert several.exit_code == 2
    assert "give --output DIR" in several.stderr
    for _ in range(2):
        written = predict(folder, "--format", form, "--output", "out", "--resume")
    assert "3 already there" in written.stderr
    assert files(tmp_path / "out") == [f"a.png{suffix}", f"b.png{suffix}", f"c.tif{suffix}"]
    assert (tmp_path / "out" / f"c.tif{suffix}").read_text() == done.stdout


def test_a_pdfs_own_text(folder: Path) -> None:
    text = stream(b"BT /F 20 Tf 20 60 Td (Own text) Tj ET")
    (folder / "text.pdf").write_bytes(
        pdf(
            b"<</Type/Catalog/Pages 2 0 R>>",
            b"<</Type/Pages/Kids[3 0 R]/Count 1>>",
            b"<</Type/Page/Parent 2 0 R/MediaBox[0 0 200 100]/Contents 4 0 R"
            b"/Resources<</Font<</F 5 0 R>>>>>>",
            text,
            b"<</Type/Font/Subtype/Type1/BaseFont/Helvetica>>",
        )
    )
    done = predict(folder / "text.pdf", "--pdf-text", "auto", "--format", "json")
    page = json.loads(done.stdout)
    assert page["source"] == "pdf_text"
    [line] = page["lines"]
    assert line["data"] == "Own text"
    assert "words" not in line
    assert json.loads(predict("in/text.pdf", "--format", "json").stdout)["source"] == "ocr"


def test_pages_are_selected_of_each_input(folder: Path, tmp_path: Path) -> None:
    done = predict(folder / "c.tif", "--format", "json", "--pages", "2-")
    assert [json.loads(line)["page"] for line in done.stdout.splitlines()] == [1]
    bad = predict(folder / "c.tif", "--pages", "2-1")
    assert bad.exit_code == 2
    assert "--pages: '2-1'" in bad.stderr
    absent = predict(folder / "a.png", "--pages", "2")
    assert absent.exit_code == 1
    assert "a.png: pages: there is no page 2" in absent.stderr
    for _ in range(2):
        again = predict(folder / "c.tif", "--pages", "2", "--save-img", "img", "--resume")
    assert "1 already there" in again.stderr
    assert files(tmp_path / "img") == ["c.tif.page-2.png"]


def test_a_searchable_pdf_of_each_input(folder: Path, tmp_path: Path) -> None:
    done = predict(folder / "c.tif", "--format", "pdf")
    assert done.exit_code == 0, done.output
    assert done.stdout_bytes.count(b"/MediaBox") == 2
    for _ in range(2):
        again = predict(folder, "--format", "pdf", "--output", "out", "--resume")
    assert "3 already there" in again.stderr
    assert files(tmp_path / "out") == ["a.png.pdf", "b.png.pdf", "c.tif.pdf"]
    signed = paper("0 0 90 90").replace(b"/Catalog", b"/Catalog/Perms<<>>")
    (folder / "signed.pdf").write_bytes(signed)
    refused = predict(folder / "signed.pdf", "--format", "pdf")
    assert (refused.exit_code, refused.stdout) == (1, "")
    assert "signed.pdf: the PDF is signed" in refused.stderr


def test_a_folder_is_read_to_its_end_whatever_is_broken(folder: Path) -> None:
    (folder / "empty.jpg").touch()
    (folder / "truth.json").write_text("[]")
    os.mkfifo(folder / "pipe.png")
    done = predict(folder, "--format", "json")
    assert done.exit_code == 1
    assert [Path(json.loads(line)["path"]).name for line in done.stdout.splitlines()] == [
        "a.png", "b.png", "c.tif", "c.tif",
    ]  # fmt: skip
    broken, empty, summary = done.stderr.splitlines()
    assert f"{folder}/broken.png" in broken
    assert f"{folder}/empty.jpg: the file is empty" in empty
    assert summary == "3 files read (4 pages), 2 failed"


def test_missing_and_broken_files_are_reported_and_the_others_are_read(folder: Path) -> None:
    done = predict("in/broken.png", "in/nobody.png", "in/a.png")
    assert done.exit_code == 1
    assert done.stdout == "==> in/a.png <==\nfake 40x20 字\n"
    broken, missing, _ = done.stderr.splitlines()
    assert "in/broken.png" in broken
    assert "in/nobody.png" in missing


def test_an_engine_that_fails_on_a_page_does_not_end_the_run(folder: Path) -> None:
    Image.new("RGB", (30, 20), (0, 0, 1)).save(folder / "a.png")
    done = predict("in/a.png", "in/b.png")
    assert done.exit_code == 1
    assert "fake 50x20" in done.stdout
    assert "Error: in/a.png: the engine broke\n" in done.stderr


def test_every_input_has_an_output_of_its_own(folder: Path, tmp_path: Path) -> None:
    for name in ("x/page.jpg", "y/page.jpg", "y/page.png"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        width = {"x": 40, "y": 50}[name[0]] + name.endswith("png")
        (tmp_path / name).write_bytes(picture(width))
    names = ("x/page.jpg", "y/page.jpg", tmp_path / "y/../y/page.png", "in/c.tif")
    done = predict(*names, "--save-img", "out", "--output", "out")
    assert done.exit_code == 0, done.output
    assert done.stdout == ""
    assert done.stderr == "4 files read (5 pages); written to out\n"
    out = tmp_path / "out"
    assert files(out) == [
        "in/c.tif.page-1.png", "in/c.tif.page-2.png", "in/c.tif.txt",
        "x/page.jpg.page-1.png", "x/page.jpg.txt",
        "y/page.jpg.page-1.png", "y/page.jpg.txt", "y/page.png.page-1.png", "y/page.png.txt",
    ]  # fmt: skip
    texts = {name: (out / name).read_text() for name in files(out) if name.endswith(".txt")}
    assert texts["x/page.jpg.txt"] == "fake 40x20 字\n"
    assert texts["y/page.png.txt"] == "fake 51x20 字\n"
    assert texts["in/c.tif.txt"] == "fake 60x20 字\n\ffake 60x20 字\n"
    with Image.open(out / "y/page.jpg.page-1.png") as image:
        assert image.size == (100, 20)


def test_folders_are_mirrored_and_what_is_written_is_not_read(folder: Path) -> None:
    (folder / "sub" / "deep").mkdir(parents=True)
    (folder / "sub" / "deep" / "d.png").write_bytes(picture(70))
    (folder / "broken.png").unlink()
    flat = predict(folder, "--output", folder / "out", "--format", "json")
    assert flat.exit_code == 0
    assert flat.stderr.splitlines()[0] == f"{folder}: 1 folder in it not read, without --recursive"
    assert files(folder / "out") == ["a.png.jsonl", "b.png.jsonl", "c.tif.jsonl"]
    for _ in range(2):
        deep = predict(folder, "-r", "--save-img", folder / "out")
        assert "4 files read (5 pages)" in deep.stderr
    assert "sub/deep/d.png.page-1.png" in files(folder / "out")
    assert not [name for name in files(folder / "out") if name.count("page-1") > 1]


def test_a_folder_without_images_is_an_error(folder: Path, tmp_path: Path) -> None:
    empty = predict(tmp_path)
    assert empty.exit_code == 1
    assert "no file in this folder is an image or a PDF; --recursive also reads" in empty.stderr
    assert predict(tmp_path, "--recursive", "--output", "out").exit_code == 1  # broken.png
    assert len(files(tmp_path / "out")) == 3


def test_names_that_are_long_or_no_text(folder: Path, tmp_path: Path) -> None:
    long, odd = "n" * 251, os.fsdecode(b"\xff\xe9.png")
    (folder / f"{long}.png").write_bytes(picture(40))
    (folder / f"{long[:-1]}m.png").write_bytes(picture(41))
    (folder / odd).write_bytes(picture(42))
    (folder / "broken.png").rename(folder / os.fsdecode(b"\xfe.png"))
    done = predict(folder, "--output", "out", "--save-img", "out", "--format", "json")
    assert done.stderr.splitlines()[1].startswith("6 files read (7 pages), 1 failed")
    assert "\ufffd.png" in done.stderr
    assert len([name for name in files(tmp_path / "out") if name.endswith("jsonl")]) == 6
    assert json.loads((tmp_path / "out" / f"{odd}.jsonl").read_text())["path"].endswith(
        "\ufffd\ufffd.png"
    )


def test_standard_input(folder: Path, tmp_path: Path) -> None:
    done = predict("-", "--format", "json", input=picture(44))
    assert json.loads(done.stdout)["path"] == "-"
    assert predict("-", input=picture(44)).stdout == "fake 44x20 字\n"
    assert predict("-", "--output", "out", input=picture(44)).exit_code == 0
    assert files(tmp_path / "out") == ["stdin.txt"]
    broken = predict("-", input=b"")
    assert (broken.exit_code, broken.stdout) == (1, "")
    assert "the file is empty" in broken.stderr


def test_resume_reads_what_is_not_there_whole_or_older(folder: Path, tmp_path: Path) -> None:
    command = (folder, "--output", "out", "--save-img", "img", "--resume")
    assert "3 files read (4 pages), 1 failed" in predict(*command).stderr
    again = predict(*command)
    assert again.exit_code == 1
    assert "0 files read (0 pages), 3 already there, 1 failed" in again.stderr
    out, img = tmp_path / "out", tmp_path / "img"
    (out / "a.png.txt").write_bytes(b"")  # not whole
    picture_file = img / "b.png.page-1.png"
    picture_file.write_bytes(picture_file.read_bytes()[:-3])
    os.utime(folder / "c.tif", (time.time() + 9, time.time() + 9))  # changed since
    assert "3 files read (4 pages), 1 failed" in predict(*command).stderr
    (folder / "broken.png").write_bytes(picture(45))
    os.utime(folder / "c.tif", (1, 1))
    mended = predict(*command)
    assert mended.exit_code == 0
    assert "1 file read (1 page), 3 already there" in mended.stderr


def test_nothing_half_done_is_left(folder: Path, tmp_path: Path) -> None:
    (folder / "c.tif").write_bytes(document(*[(0, 0, 1)] * 2))  # the engine fails on both
    done = predict(folder / "c.tif", "--output", "out", "--save-img", "out")
    assert done.exit_code == 1
    assert "0 files read (0 pages), 2 failed" in done.stderr
    assert files(tmp_path / "out") == []


def damaged_tiff(path: Path) -> str:
    """Three pages, the second with damaged pixels. Returns where the error says it is."""
    # A deviation of 20: none begins with a white pixel, and every page has text.
    pages = [Image.effect_noise((60 + number, 20), 20) for number in range(3)]
    pages[0].save(path, save_all=True, append_images=pages[1:], compression="tiff_adobe_deflate")
    data = bytearray(path.read_bytes())
    with Image.open(path) as image:
        image.seek(1)
        start = image.tag_v2[273][0]
    data[start : start + 40] = bytes(40)
    path.write_bytes(data)
    return "broken TIFF, page 2: "


def tiff_without_a_second_directory(path: Path) -> str:
    """A page, and where the next ought to be the end of the file."""
    data = picture(60, kind="TIFF", pages=2)
    with Image.open(io.BytesIO(data)) as image:
        image.seek(1)
        path.write_bytes(data[: image.tag_v2.offset + 1])
    return "broken TIFF, page 2: "


def damaged_pdf(path: Path) -> str:
    """Three pages, of which the second is no page."""
    data = paper("0 0 30 10", "0 0 31 10", "0 0 32 10", content=b"0 0 99 99 re f")
    path.write_bytes(data.replace(b"5 0 obj\n<</Type/Page/", b"5 0 obj\n[</Type/Page/"))
    return "broken PDF, page 2: "


def page_that_the_engine_fails_on(path: Path) -> str:
    path.write_bytes(document((9, 9, 9), (0, 0, 1), (9, 9, 9)))
    return f"in/{path.name}, page 2: the engine broke"


@pytest.mark.parametrize(
    "damage",
    [
        damaged_tiff,
        tiff_without_a_second_directory,
        damaged_pdf,
        page_that_the_engine_fails_on,
    ],
)
def test_the_good_pages_of_a_document_with_a_broken_one_are_kept(
    folder: Path, tmp_path: Path, damage: Callable[[Path], str]
) -> None:
    (folder / "broken.png").unlink()
    where = damage(folder / "c.tif")
    command = ("in", "--output", "out", "--save-img", "out", "--resume")
    done = predict(*command)
    assert done.exit_code == 1
    [error, summary] = done.stderr.splitlines()
    assert error.startswith("Error: in/c.tif") and where in error
    pages = 1 if damage is tiff_without_a_second_directory else 2
    assert summary == f"3 files read ({pages + 2} pages), 1 failed; written to out"
    out = tmp_path / "out"
    last = ["c.tif.page-3.png"] * (pages == 2)
    expected = ["a.png.page-1.png", "a.png.txt", "b.png.page-1.png", "b.png.txt"]
    expected += ["c.tif.errors.txt", "c.tif.page-1.png", *last, "c.tif.txt"]
    assert files(out) == expected
    text = (out / "c.tif.txt").read_text().split("\f")  # the third page is the third
    assert [part.startswith("fake") for part in text] == [True, False, True][: pages + 1]
    [line] = (out / "c.tif.errors.txt").read_text().splitlines()
    assert line.startswith("page 2: ")

    again = predict(*command)  # it is not done
    assert again.exit_code == 1
    assert f"1 file read ({pages} page" in again.stderr and "2 already there" in again.stderr

    (folder / "c.tif").write_bytes(picture(70, kind="TIFF", pages=2))
    os.utime(folder / "c.tif", (1, 1))
    assert predict(*command).exit_code == 0
    assert files(out) == [*expected[:4], "c.tif.page-1.png", "c.tif.page-2.png", "c.tif.txt"]
    assert (out / "c.tif.txt").read_text() == "fake 70x20 字\n\ffake 70x20 字\n"
    assert "3 already there" in predict(*command).stderr


def test_what_is_broken_now_does_not_keep_the_page_of_an_earlier_run(
    folder: Path, tmp_path: Path
) -> None:
    command = ("in/c.tif", "--output", "out", "--save-img", "out", "--format", "json")
    (folder / "c.tif").write_bytes(document((9, 9, 9), (8, 8, 8), (7, 7, 7)))
    assert predict(*command).exit_code == 0
    (folder / "c.tif").write_bytes(document((0, 0, 1), (8, 8, 8)))
    assert predict(*command).exit_code == 1
    out = tmp_path / "out"
    assert files(out) == ["c.tif.errors.txt", "c.tif.jsonl", "c.tif.page-2.png"]
    assert [
        json.loads(line)["page"] for line in (out / "c.tif.jsonl").read_text().splitlines()
    ] == [1]


def test_a_broken_page_on_stdout_is_an_empty_page(folder: Path) -> None:
    (folder / "c.tif").write_bytes(document((9, 9, 9), (0, 0, 1), (9, 9, 9), (0, 0, 1)))
    done = predict("in/a.png", "in/c.tif")
    assert done.exit_code == 1
    fake = "fake 40x20 字\n"
    assert done.stdout == f"==> in/a.png <==\n{fake}==> in/c.tif <==\n{fake}\f\f{fake}\f"


@pytest.mark.parametrize("form", ["markdown", "hocr", "alto", "pdf"])
@pytest.mark.parametrize("damage", [damaged_tiff, damaged_pdf, page_that_the_engine_fails_on])
def test_a_document_format_keeps_the_place_of_a_broken_page(
    folder: Path, damage: Callable[[Path], str], form: str
) -> None:
    damage(folder / "c.tif")
    done = predict("in/c.tif", "--format", form)
    assert done.exit_code == 1
    assert ", page 2: " in done.stderr
    pages = pages_of(form, done.stdout_bytes)
    first, *_, third = {damaged_tiff: (60, 62), damaged_pdf: (60, 64)}.get(damage, (40, 40))
    expected = [[f"{first}x20"], [], [f"{third}x20"]]
    assert [re.findall(r"\d+x\d+", text) for text in pages] == expected


def pages_of(form: str, content: bytes) -> list[str]:
    """The text of each page."""
    if form == "pdf":
        with pypdfium2.PdfDocument(content) as document:
            return [page.get_textpage().get_text_range() for page in document]
    if form == "markdown":
        return content.decode().split("\n---\n")
    pages = ElementTree.fromstring(content).iter()
    return [
        " ".join([*page.itertext(), *(part.get("CONTENT", "") for part in page.iter())])
        for page in pages
        if page.get("class") == "ocr_page" or page.tag.endswith("}Page")
    ]


def test_a_full_disk_ends_the_run_with_what_is_done(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    replace = Path.replace

    def full(path: Path, target: Path) -> Path:
        if target.name.startswith("b.png"):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))
        return replace(path, target)

    monkeypatch.setattr(Path, "replace", full)
    done = predict(folder / "a.png", folder / "b.png", folder / "c.tif", "--output", "out")
    assert done.exit_code == 1
    stopped, error = done.stderr.splitlines()
    assert stopped == "stopped: 1 file read (1 page)"
    assert "the disk is full" in error
    assert files(tmp_path / "out") == ["a.png.txt"]


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
def test_a_full_disk_behind_stdout_is_one_line(folder: Path) -> None:
    with Path("/dev/full").open("w") as full:
        run = child(folder, ("in",), stdout=full)
    _, err = run.communicate(timeout=60)
    assert run.returncode == 1
    assert "the disk is full" in err.splitlines()[-1]


def test_options_are_those_of_a_request(folder: Path, reader: FakeReader) -> None:
    flags = {
        "--text-det-limit-side-len": "640",
        "--text-det-limit-type": "min",
        "--text-det-max-side-limit": "2000",
        "--text-det-thresh": "0.25",
        "--text-det-box-thresh": "0.5",
        "--text-det-unclip-ratio": "1.5",
        "--text-rec-score-thresh": "0.9",
        "--order": "columns",
    }
    arguments = [part for pair in flags.items() for part in pair]
    switches = ("--use-textline-orientation", "--no-return-word-box")
    assert predict("in/a.png", *arguments, *switches).exit_code == 0
    assert reader.seen[-1] == Options(
        use_textline_orientation=True,
        text_det_limit_side_len=640,
        text_det_limit_type="min",
        text_det_max_side_limit=2000,
        text_det_thresh=0.25,
        text_det_box_thresh=0.5,
        text_det_unclip_ratio=1.5,
        text_rec_score_thresh=0.9,
        return_word_box=False,
        order="columns",
    )
    assert predict("in/a.png").exit_code == 0
    assert reader.seen[-1] == Options()
    shown = predict("--help").stdout
    assert [name for name in Options.model_fields if name.replace("_", "-") not in shown] == []


def test_pdf_dpi(folder: Path) -> None:
    Image.new("RGB", (100, 50)).save(folder / "p.pdf", resolution=72)
    widths = [
        json.loads(predict("in/p.pdf", "--format", "json", *arguments).stdout)["width"]
        for arguments in ((), ("--pdf-dpi", 72))
    ]
    assert widths == [200, 100]


def test_the_bounds_on_a_page_and_a_document_may_be_set(folder: Path) -> None:
    """Each error names the option that this command has."""
    for name, allowed in (("a.png", ("--max-pixels", 800)), ("c.tif", ("--max-pages", 2))):
        flag, bound = allowed
        assert predict(folder / name, flag, bound).exit_code == 0
        refused = predict(folder / name, flag, bound - 1)
        assert refused.exit_code == 1
        assert f"the limit is {bound - 1} ({flag})" in refused.stderr
    with load_pipeline(YAML, max_pixels=799) as pipeline, pytest.raises(TooLarge):
        next(pipeline.predict(folder / "a.png"))
    with load_pipeline(YAML, max_pages=1) as pipeline, pytest.raises(TooLarge):
        next(pipeline.predict(folder / "c.tif"))


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ((), "Missing argument"),
        (("in", "--format", "xml"), "'xml' is not one of"),
        (("in", "--resume"), "--resume needs --output or --save-img"),
        (("in", "--text-det-thresh", "2"), "--text-det-thresh: must be at most 1"),
        (("in", "--text-det-thresh", "x"), "--text-det-thresh: must be a number"),
        (("in", "--text-det-limit-type", "x"), "--text-det-limit-type: must be 'min'"),
        (("in", "--pdf-dpi", "20"), "36<=x<=1200"),
        (("in", "--save-img", "in/../in"), "its images would be read, too"),
        (("in", "--output", "in/a.png"), "is a file"),
    ],
)
def test_wrong_usage(folder: Path, reader: FakeReader, arguments: Any, words: str) -> None:
    done = predict(*arguments)
    assert done.exit_code == 2
    assert words in done.stderr
    assert not reader.seen


CHILD = """
import signal, sys
signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background jobs ignore it
sys.path[:0] = [sys.argv.pop(1)]
from http_fake import FakeReader
import serving.api
from pathlib import Path
gate = Path(sys.argv.pop(1))
serving.api.open_pipeline = lambda *_, **__: FakeReader(gate=gate)
from serving.cli import main
main()
"""


def child(
    folder: Path, arguments: tuple[str, ...], before: str = "", **streams: Any
) -> subprocess.Popen[str]:
    gate = folder.parent / "gate"
    support = str(ROOT / "tests" / "support")
    return subprocess.Popen(
        [
            sys.executable,
            "-c",
            before + CHILD,
            support,
            gate,
            "predict",
            "--pipeline",
            YAML,
            *arguments,
        ],
        cwd=folder.parent,
        env={**os.environ, "PYTHONPATH": str(ROOT), "OPENBLAS_NUM_THREADS": "1"},
        text=True,
        **{"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, **streams},
    )


def test_ctrl_c_ends_with_130_and_says_what_is_done(folder: Path, tmp_path: Path) -> None:
    Image.new("RGB", (30, 20), (255, 0, 0)).save(folder / "c.tif")  # held until the gate opens
    run = child(folder, ("in", "--output", "out"))
    while not (tmp_path / "gate.reached").exists():
        assert run.poll() is None
        time.sleep(0.02)
    run.send_signal(signal.SIGINT)
    out, err = run.communicate(timeout=60)
    assert (run.returncode, out) == (130, "")
    assert err.splitlines()[1:] == [
        "interrupted: 2 files read (2 pages), 1 failed; "
        "the same command with --resume reads the rest"
    ]
    assert files(tmp_path / "out") == ["a.png.txt", "b.png.txt"]


def test_a_terminal_on_stderr_shows_a_bar_and_stdout_stays_clean(folder: Path) -> None:
    parent, terminal = pty.openpty()
    run = child(folder, ("in",), stderr=terminal)
    os.close(terminal)
    shown = b""
    with pytest.raises(OSError, match="Input/output"):  # the end, on a terminal
        while part := os.read(parent, 4096):
            shown += part
    os.close(parent)
    assert run.stdout is not None
    assert run.stdout.read() == (
        "==> in/a.png <==\nfake 40x20 字\n==> in/b.png <==\nfake 50x20 字\n"
        "==> in/c.tif <==\nfake 60x20 字\n\ffake 60x20 字\n"
    )
    run.stdout.close()
    assert run.wait(60) == 1
    assert b"4/4" in shown
    assert b"broken.png" in shown


def test_many_files_are_not_kept_in_memory(folder: Path) -> None:
    """Of 60 large pages no more than a few are in memory at once."""
    many = folder.parent / "many"
    many.mkdir()
    Image.new("RGB", (3000, 3000), (9, 9, 9)).save(many / "0.png")
    for number in range(1, 60):
        os.link(many / "0.png", many / f"{number}.png")
    limit = "import resource; resource.setrlimit(resource.RLIMIT_AS, (3 << 30, 3 << 30))\n"
    run = child(folder, ("many", "--format", "json", "--output", "out"), before=limit)
    _, err = run.communicate(timeout=120)
    assert run.returncode == 0, err
    assert "60 files read (60 pages)" in err
