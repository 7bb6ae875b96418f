"""Damaged images and documents of every format, through a real server and its decoders.

OCR_HPI_MUTATED_FILES sets how many, 10000 by default. Real models read as many as
OCR_HPI_MUTATED_PAGES says, by default none.
"""

from __future__ import annotations

import hashlib
import os
import random
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import requests
from http_server import PATIENCE, URL, Server, real_server
from imaging_files import encoded, picture
from PIL import Image
from requests import Session

from benchmarks.corpus import Sample
from serving.errors import OcrError
from serving.imaging.decode import Decoder

PAGES = int(os.environ.get("OCR_HPI_MUTATED_PAGES", "0"))
FILES = int(os.environ.get("OCR_HPI_MUTATED_FILES", "10000"))
CALLERS = 4
EXTREMES = (0, 1, 0x7F, 0x7FFF, 0xFFFF, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFF)
SIZE = (120, 90)
EPOCH = time.gmtime(0)


def whole_files(colour: Image.Image | None = None) -> dict[str, bytes]:
    """One or two undamaged files of each format, of that page or a gradient."""
    colour = colour or picture("RGB", SIZE)
    grey = colour.convert("L")
    pages = {"save_all": True, "append_images": [colour]}
    return {
        "png": encoded(colour, "PNG"),
        "png palette": encoded(colour.convert("P"), "PNG"),
        "jpeg": encoded(colour, "JPEG", quality=80),
        "jpeg progressive": encoded(grey, "JPEG", progressive=True),
        "webp": encoded(colour, "WEBP", quality=80),
        "webp lossless": encoded(colour, "WEBP", lossless=True),
        "bmp": encoded(colour, "BMP"),
        "gif": encoded(colour, "GIF"),
        "tiff": encoded(colour, "TIFF", **pages),
        "tiff lzw": encoded(grey, "TIFF", compression="tiff_lzw"),
        "tiff deflate": encoded(colour, "TIFF", compression="tiff_adobe_deflate"),
        "pdf": encoded(colour, "PDF", **pages, creationDate=EPOCH, modDate=EPOCH),
    }


def mutated(data: bytes, other: bytes, chance: random.Random) -> bytes:
    """One to four kinds of damage, most of them near the headers at the beginning."""
    damaged = bytearray(data)
    for _ in range(chance.randint(1, 4)):
        end = len(damaged) if chance.random() < 0.4 else min(len(damaged), 400)
        at, length = chance.randrange(max(end, 1)), chance.randint(1, 40)
        kind = chance.randrange(7)
        if kind == 0:
            damaged[at : at + 1] = bytes([chance.randrange(256)])
        elif kind == 1:
            damaged[at : at + 4] = chance.choice(EXTREMES).to_bytes(
                4, chance.choice(("big", "little"))
            )
        elif kind == 2:
            del damaged[at : at + length]
        elif kind == 3:
            damaged[at:at] = chance.randbytes(length)
        elif kind == 4:
            damaged[at:at] = damaged[at : at + length] * chance.randint(1, 50)
        elif kind == 5:
            del damaged[chance.randrange(len(damaged) + 1) :]
        else:
            damaged[at:] = other[at:]
    return bytes(damaged)


def damaged_file(files: dict[str, bytes], number: int) -> tuple[str, bytes]:
    """The format and the bytes of the file of that number."""
    chance = random.Random(number)
    kind, other = chance.choice(list(files)), chance.choice(list(files.values()))
    return kind, mutated(files[kind], other, chance)


def send_damaged(url: str, files: dict[str, bytes], count: int) -> Counter[tuple[str, int]]:
    """How often each format got each status; every one of them is a caller's fault, or none."""

    def send(caller: int) -> Counter[tuple[str, int]]:
        answers: Counter[tuple[str, int]] = Counter()
        with Session() as session:
            for number in range(caller, count, CALLERS):
                kind, data = damaged_file(files, number)
                answer = session.post(url, data=data, timeout=2 * PATIENCE)
                assert answer.status_code in (200, 400, 413, 415, 422), (number, answer.text)
                if answer.status_code != 200:
                    assert answer.json()["error"]["message"], number
                answers[kind, answer.status_code] += 1
        return answers

    with ThreadPoolExecutor(CALLERS) as callers:
        answers = sum(callers.map(send, range(CALLERS)), Counter())
    print(f"{count} files:", dict(sorted(answers.items())))
    return answers


def test_no_damaged_file_gives_a_5xx_or_ends_a_worker(start: Callable[..., Server]) -> None:
    server = start(threads=2, queue=20).wait_ready()
    workers = server.workers()
    files = whole_files()
    answers = send_damaged(server.base + URL, files, FILES)
    # Damage is found in every format, and is sometimes harmless (PNG has checksums).
    assert all(answers[kind, 422] for kind in files)
    assert sum(count for (_, status), count in answers.items() if status == 200) > FILES / 20
    assert server.workers() == workers
    for kind, data in files.items():
        answer = server.post(data=data, headers={})
        assert answer.status_code == 200, (kind, answer.text)


def test_no_damaged_pdf_breaks_the_making_of_a_searchable_one(server: Server) -> None:
    files = whole_files()
    answers: Counter[int] = Counter()
    with Session() as session:
        for number in range(max(FILES // 20, 20)):
            chance = random.Random(f"searchable {number}")
            data = mutated(files["pdf"], chance.choice(list(files.values())), chance)
            url = server.base + URL + "?format=pdf"
            answer = session.post(url, data=data, timeout=PATIENCE)
            assert answer.status_code in (200, 400, 413, 415, 422), (number, answer.text)
            answers[answer.status_code] += 1
            if answer.status_code == 200:
                assert answer.content.startswith(b"%PDF-")
    assert answers[200] and answers[422]


def test_no_damaged_file_shows_what_memory_held_before(repo: Path, tmp_path: Path) -> None:
    """A decoder that gives up midway must not return the pages of others that were there."""

    def digests(fill: int) -> subprocess.Popen[bytes]:
        with (tmp_path / str(fill)).open("wb") as file:
            return subprocess.Popen(
                [sys.executable, __file__],
                # glibc fills new and freed memory with it.
                env={
                    **os.environ,
                    "GLIBC_TUNABLES": f"glibc.malloc.perturb={fill}",
                    "PYTHONPATH": os.pathsep.join((str(repo), str(repo / "tests/support"))),
                },
                stdout=file,
            )

    assert [child.wait() for child in [digests(1), digests(90)]] == [0, 0]
    first, second = ((tmp_path / name).read_text().splitlines() for name in ("1", "90"))
    assert len(first) == FILES
    assert first == second


def print_digests() -> None:
    """Of the pixels of every damaged file."""
    files = whole_files()
    with Decoder() as decoder:
        for number in range(FILES):
            kind, data = damaged_file(files, number)
            try:
                pages = list(decoder.pages(data))
                found = [(page.shape, hashlib.sha256(page).hexdigest()) for page in pages]
            except OcrError as error:
                found = type(error).__name__
            print(number, kind, found)


@pytest.mark.skipif(not PAGES, reason="OCR_HPI_MUTATED_PAGES says how many")
def test_real_models_read_on_beside_damaged_files(
    repo: Path, built: Path, sample_page: Sample, tmp_path: Path
) -> None:
    pixels = np.ascontiguousarray(sample_page.image[:240, :640, ::-1])
    files = whole_files(Image.fromarray(pixels))
    pipeline = f"accurate={repo / 'configs/PP-OCRv4_mobile.yaml'}"
    log = tmp_path / "log"
    with real_server(log, "--models", str(built), "--pipeline", pipeline) as (_, base):

        def texts() -> list[str]:
            answers = (requests.post(base + URL, data=file) for file in files.values())
            return [answer.text for answer in answers]

        before = texts()
        assert sum(text.count('"data"') for text in before) > len(files)
        answers = send_damaged(base + URL, files, PAGES)
        assert sum(count for (_, status), count in answers.items() if status == 200)
        assert texts() == before
    assert "worker ended" not in log.read_text()


@pytest.mark.parametrize("kind", list(whole_files()))
def test_an_undamaged_file_reads(server: Server, kind: str) -> None:
    answer = server.post(data=whole_files()[kind], headers={})
    assert answer.status_code == 200, answer.text
    assert len(answer.json()) == (2 if kind in ("tiff", "pdf") else 1)


if __name__ == "__main__":
    print_digests()
