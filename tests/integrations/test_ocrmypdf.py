"""OCRmyPDF's own command with our plugin, on scans that the project renders."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np
import poppler
import pytest
from http_server import real_server
from PIL import Image as Pillow

from benchmarks.corpus import Sample
from serving.http.keys import new_key
from serving.scores import character_overlap, token_overlap
from serving.types import Image

Run = Callable[..., subprocess.CompletedProcess[str]]
KEY, LINE = new_key("ocrmypdf")


@pytest.fixture(scope="module")
def run(repo: Path, built: Path) -> Run:
    """`ocrmypdf --plugin ...` on a PDF: no program of the system is on its PATH."""

    def ocrmypdf(*options: str | Path, key: str = KEY) -> subprocess.CompletedProcess[str]:
        command = ["-m", "ocrmypdf", "--plugin", "serving.integrations.ocrmypdf"]
        return subprocess.run(
            [sys.executable, *command, "--ocr-hpi-models", built, *options],
            cwd=repo,
            env={"PATH": str(Path(sys.executable).parent), "OCR_HPI_API_KEY": key},
            capture_output=True,
            text=True,
        )

    return ocrmypdf


@pytest.fixture(scope="module")
def url(built: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    folder = tmp_path_factory.mktemp("server")
    (folder / "keys.txt").write_text(LINE + "\n")
    options = ("--models", str(built), "--api-keys-file", str(folder / "keys.txt"))
    with real_server(folder / "log", *options) as (_, base):
        yield f"{base}/ocr/v1/accurate"


@pytest.fixture(scope="module")
def letter(sample_page: Sample) -> Sample:
    """Its upper half, to read less: head, address and the first paragraph."""
    end = 575  # between two paragraphs
    lines = tuple(line for line in sample_page.lines if max(y for _, y in line.quad) <= end)
    return replace(sample_page, image=sample_page.image[:end], lines=lines)


def scan(folder: Path, *pages: Image) -> Path:
    """A PDF of these pages at 144 dpi."""
    path = folder / "in.pdf"
    first, *others = (Pillow.fromarray(np.ascontiguousarray(page[..., ::-1])) for page in pages)
    first.save(path, save_all=True, append_images=others, resolution=144)
    return path


def text_of(path: Path) -> list[str]:
    """Each page's text as pdftotext has it by default, in one line."""
    pages = poppler.run("pdftotext", "-", pdf=path.read_bytes()).decode().split("\f")[:-1]
    return [" ".join(page.split()) for page in pages]


class Made(NamedTuple):
    source: Path
    made: Path
    sidecar: Path


@pytest.fixture(scope="module", params=["in process", "on a server"])
def searchable(
    request: pytest.FixtureRequest,
    run: Run,
    url: str,
    letter: Sample,
    tmp_path_factory: pytest.TempPathFactory,
) -> Made:
    """A scan of two pages, and what OCRmyPDF made of it."""
    folder = tmp_path_factory.mktemp("searchable")
    files = Made(scan(folder, letter.image, letter.image), folder / "out.pdf", folder / "out.txt")
    server = ["--ocr-hpi-server", url] if request.param == "on a server" else []
    options = ("--output-type", "pdf", "--sidecar", files.sidecar, *server)
    done = run(*options, files.source, files.made)
    assert done.returncode == 0, done.stderr
    return files


def test_a_scan_can_be_searched_and_looks_as_before(searchable: Made, letter: Sample) -> None:
    made = searchable.made.read_bytes()
    assert poppler.pixels(made, 144) == poppler.pixels(searchable.source.read_bytes(), 144)
    truth = [line.text for line in letter.lines]
    found = text_of(searchable.made)
    assert len(found) == 2
    for page in found:
        assert character_overlap(truth, [page]).f1 > 0.97
    long = [text for text in truth if len(text.split()) >= 6]
    searched = [" ".join(text.split()[1:4]) for text in long]
    assert len(searched) > 5
    assert sum(phrase in found[0] for phrase in searched) >= 0.8 * len(searched)
    pages = searchable.sidecar.read_text().split("\f")
    assert len(pages) == 2
    assert character_overlap(truth, pages[0].splitlines()).f1 > 0.97
    assert b"paddleocr-hpi-serving" in poppler.run("pdfinfo", pdf=made)


def test_words_stand_where_they_are_seen(searchable: Made, letter: Sample) -> None:
    words, _ = poppler.words(searchable.made.read_bytes())
    grey = letter.image.min(axis=2)
    edges = []
    for word in words:
        left, top, right, bottom = (round(2 * side) for side in word.box)  # 144 dpi
        ink = np.flatnonzero((grey[top:bottom, left - 20 : right + 20] < 128).any(axis=0)) - 20
        inside = ink[(ink > -6) & (ink < right - left + 6)]  # less than a space away
        edges += [abs(inside[0]), abs(inside[-1] - (right - left))]
    assert len(edges) > 100
    assert np.median(edges) <= 2


def test_turned_pages_are_turned_upright(run: Run, letter: Sample, tmp_path: Path) -> None:
    turned = [np.rot90(letter.image, turns) for turns in (1, 2, 3)]
    source, made = scan(tmp_path, *turned), tmp_path / "out.pdf"
    done = run("--rotate-pages", "--output-type", "pdf", source, made)
    assert done.returncode == 0, done.stderr
    height, width = letter.image.shape[:2]
    pages = text_of(made)
    assert len(pages) == 3
    for number, page in enumerate(pages, 1):
        only = ("-f", str(number), "-l", str(number))
        drawn = poppler.run("pdftoppm", "-r", "144", *only, pdf=made.read_bytes())
        assert drawn.split()[1:3] == [b"%d" % width, b"%d" % height]
        assert token_overlap([line.text for line in letter.lines], [page]).f1 > 0.6


def test_skewed_pages_are_straightened(run: Run, url: str, letter: Sample, tmp_path: Path) -> None:
    height, width = letter.image.shape[:2]
    matrix = cv2.getRotationMatrix2D((width / 2, height / 2), -2.5, 1.0)
    white = (255, 255, 255)
    skewed = cv2.warpAffine(letter.image, matrix, (width, height), borderValue=white)
    source, made = scan(tmp_path, np.asarray(skewed, np.uint8)), tmp_path / "out.pdf"
    done = run("--deskew", "--output-type", "pdf", "--ocr-hpi-server", url, source, made)
    assert done.returncode == 0, done.stderr
    drawn = poppler.run("pdftoppm", "-r", "144", "-gray", pdf=made.read_bytes())
    grey = cv2.imdecode(np.frombuffer(drawn, np.uint8), cv2.IMREAD_GRAYSCALE)
    upright, before = (_row_contrast(page) for page in (grey, skewed.min(axis=2)))
    assert upright > 1.5 * before
    assert upright > 0.8 * _row_contrast(letter.image.min(axis=2))


def _row_contrast(page: np.ndarray) -> float:
    """High where lines of text run along the rows of pixels."""
    return float(np.std((np.asarray(page) < 128).mean(axis=1)))


def test_other_programs_call_it_the_same_way(
    repo: Path, url: str, letter: Sample, tmp_path: Path
) -> None:
    """As paperless-ngx does: OCRmyPDF's function, with arguments from its settings.

    With a server, the plugin needs no backend and no OpenCV: here they cannot be imported.
    """
    source, made = scan(tmp_path, letter.image), tmp_path / "out.pdf"
    told = {
        "language": "eng",
        "deskew": True,
        "rotate_pages": True,
        "rotate_pages_threshold": 12.0,
        "output_type": "pdf",
        "progress_bar": False,
        "plugins": ["serving.integrations.ocrmypdf"],
        "ocr_hpi_server": url,
    }
    program = (
        "import ocrmypdf, sys\n"
        "sys.modules.update(dict.fromkeys(['cv2', 'openvino', 'onnxruntime', 'onnx']))\n"
        f"if __name__ == '__main__':\n    ocrmypdf.ocr(sys.argv[1], sys.argv[2], **{told!r})"
    )
    done = subprocess.run(
        [sys.executable, "-c", program, source, made],
        cwd=repo,
        env={"PATH": str(Path(sys.executable).parent), "OCR_HPI_API_KEY": KEY},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert character_overlap([line.text for line in letter.lines], text_of(made)).f1 > 0.97


WRONG = {
    "no pipeline": (["--ocr-hpi-pipeline", "nothing.yaml"], 1, "nothing.yaml: no such file"),
    "no models": (["--ocr-hpi-models", "nowhere"], 1, "scripts/"),
    "no address": (["--ocr-hpi-server", "localhost:8868"], 1, "http://127.0.0.1:8868/ocr/v1/"),
    "no server": (["--ocr-hpi-server", "http://127.0.0.1:9/ocr/v1/x"], 15, "does not answer"),
    "renderer": (["--pdf-renderer", "sandwich"], 1, "--pdf-renderer sandwich needs Tesseract"),
    "engine": (["--ocr-engine", "tesseract"], 1, "takes Tesseract's place"),
}


@pytest.mark.parametrize("name", WRONG)
def test_what_is_wrong_is_said_in_one_line(
    run: Run, letter: Sample, tmp_path: Path, name: str
) -> None:
    options, code, said = WRONG[name]
    done = run(*options, scan(tmp_path, letter.image), tmp_path / "out.pdf")
    assert (done.returncode, said in done.stderr) == (code, True), done.stderr
    assert "Traceback" not in done.stderr
    assert not (tmp_path / "out.pdf").exists()


def test_a_servers_refusal_is_passed_on(run: Run, url: str, letter: Sample, tmp_path: Path) -> None:
    source, made = scan(tmp_path, letter.image), tmp_path / "out.pdf"
    done = run("--ocr-hpi-server", url, source, made, key="ocr_wrong")
    assert done.returncode == 15
    assert "unknown API key" in done.stderr
    done = run("--ocr-hpi-server", url.replace("accurate", "other"), source, made)
    assert done.returncode == 15
    assert "no pipeline 'other'" in done.stderr
    assert "Traceback" not in done.stderr


def test_no_engine_is_no_engine(run: Run, letter: Sample, tmp_path: Path) -> None:
    source, made = scan(tmp_path, letter.image), tmp_path / "out.pdf"
    done = run("--ocr-engine", "none", "--output-type", "pdf", source, made)
    assert done.returncode == 0, done.stderr
    assert text_of(made) == [""]
