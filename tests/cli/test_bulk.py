"""`ocr-hpi bulk` with real models, in real processes."""

from __future__ import annotations

import json
import os
import pty
import re
import signal
import socket
import subprocess
import sys
import tarfile
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from http_fake import picture
from http_server import Server, eventually
from PIL import Image
from pyarrow import parquet

from benchmarks import corpus
from serving import load_pipeline

ROOT = Path(__file__).resolve().parents[2]
LINES = 40
DIFFERENT = 4
BOOK = 10


@pytest.fixture(scope="module")
def scans(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Lines of text as small pages, a PDF with the first of them, and a broken file.

    A few lines again and again: the first page of a size takes an engine many times as long.
    """
    folder = tmp_path_factory.mktemp("scans")
    lines = [Image.fromarray(line.image[..., ::-1]) for line in corpus.lines(17, DIFFERENT)]
    images = [lines[index % DIFFERENT] for index in range(LINES)]
    for index, image in enumerate(images):
        image.save(folder / f"{index:03}.png")
    images[0].save(folder / "book.pdf", save_all=True, append_images=images[1:BOOK])
    (folder / "broken.png").write_bytes(picture()[:60])
    return folder


def expected(folder: Path) -> Counter[tuple[str, int | None]]:
    names = {str(path) for path in folder.glob("0*.png")}
    return Counter(
        [*((name, 0) for name in names), (str(folder / "broken.png"), 0)]
        + [(str(folder / "book.pdf"), page) for page in range(BOOK)]
    )


def command(*arguments: Any) -> list[str]:
    own = ["--models", "models", "--max-error-rate", "0.05"]
    return [sys.executable, "-m", "serving.cli", "bulk", *map(str, arguments), *own]


def bulk(*arguments: Any) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command(*arguments), capture_output=True, text=True, cwd=ROOT)


def rows(folder: Path) -> list[dict[str, Any]]:
    if list(folder.glob("*.jsonl")):
        files = sorted(folder.glob("*.jsonl"))
        return [json.loads(line) for file in files for line in file.read_text().splitlines()]
    return parquet.read_table(folder).to_pylist()


def pages(folder: Path) -> Counter[tuple[str, int | None]]:
    return Counter((row["document"], row["page"]) for row in rows(folder))


def children(pid: int) -> list[int]:
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


@pytest.fixture
def running(tmp_path: Path, scans: Path, built: Path) -> Iterator[subprocess.Popen[str]]:
    """A run that has committed its first shards of three pages; stopped, to stay there."""
    # A shell's background jobs ignore SIGINT, and so would this one.
    heeding = ["env", "--default-signal=INT"]
    options = "--format", "jsonl", "--shard-pages", "3"
    process = subprocess.Popen(
        [*heeding, *command(scans, tmp_path / "out", *options)],
        stderr=subprocess.PIPE,
        text=True,
        cwd=ROOT,
    )
    assert process.stderr is not None
    with process, process.stderr:
        while not (tmp_path / "out" / "part-00001.jsonl").exists():
            assert process.poll() is None, process.stderr.read()
            time.sleep(0.01)
        process.send_signal(signal.SIGSTOP)
        yield process
        process.kill()


@dataclass
class Done:
    """A run that has ended."""

    out: Path
    code: int
    seen: str
    """All the text that it drew on its terminal."""


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory, scans: Path, built: Path) -> Done:
    """A run that has read everything, on a terminal."""
    out = tmp_path_factory.mktemp("whole") / "out"
    master, slave = pty.openpty()
    with subprocess.Popen(
        command(scans, out, "--price-per-hour", "36"), stderr=slave, cwd=ROOT
    ) as process:
        os.close(slave)
        seen = b""
        with suppress(OSError):  # the program has ended
            while some := os.read(master, 4096):
                seen += some
        os.close(master)
    moves = r"\x1b\[[0-9;?]*[A-Za-z]"  # of the cursor
    return Done(out, process.returncode, re.sub(moves, "", seen.decode()))


def test_every_page_is_a_row(whole: Done, scans: Path, built: Path) -> None:
    out = whole.out
    assert whole.code == 0, whole.seen
    assert pages(out) == expected(scans)
    with load_pipeline("configs/PP-OCRv4_mobile.yaml", models=built, warm=False) as pipeline:
        known = next(iter(pipeline.predict(scans / "007.png")))
    found = {row["document"]: row for row in rows(out)}
    row = found[str(scans / "007.png")]
    assert row["text"] == "\n".join(line.text for line in known.lines) != ""
    assert row["lines"][0]["box"] == [list(point) for point in known.lines[0].box]
    assert (row["width"], row["height"]) == (known.page.width, known.page.height)
    assert row["ms"] > 0 and row["pipeline"].startswith("PP-OCRv4_mobile@")
    [error] = [row["error"] for row in rows(out) if row["error"]]
    assert error["code"] == "undecodable"
    summary = json.loads((out / "_summary.json").read_text())
    assert summary["pages"] == LINES + BOOK + 1
    assert summary["errors"] == {"undecodable": 1}
    assert summary["cost"] == pytest.approx(summary["seconds"] / 100, rel=0.1)
    last = whole.seen.splitlines()[-1]
    assert last.startswith(f"{LINES + BOOK} pages read, 1 failed (1 undecodable), ")


def test_a_terminal_shows_the_time_left(whole: Done) -> None:
    assert "pages/s, 0:00:" in whole.seen and " left" in whole.seen


def test_a_killed_run_goes_on(running: subprocess.Popen[str], tmp_path: Path, scans: Path) -> None:
    workers = children(running.pid)
    running.kill()
    running.wait()
    assert eventually(lambda: not any(Path(f"/proc/{pid}/exe").exists() for pid in workers))
    out = tmp_path / "out"
    before = pages(out)
    assert 6 <= before.total() < LINES
    done = bulk(scans, out, "--format", "jsonl", "--shard-pages", "3")
    assert done.returncode == 0, done.stderr
    assert pages(out) == expected(scans)
    assert f"{before.total()} already there" in done.stderr
    again = bulk(scans, out, "--format", "jsonl")
    assert again.stderr.splitlines()[-1].startswith(f"0 pages read, {LINES + BOOK + 1} already")


def test_a_killed_worker_is_replaced(
    running: subprocess.Popen[str], tmp_path: Path, scans: Path
) -> None:
    worker, *_ = children(running.pid)
    os.kill(worker, signal.SIGKILL)
    running.send_signal(signal.SIGCONT)
    assert running.stderr is not None
    assert running.wait() == 0, running.stderr.read()
    assert pages(tmp_path / "out") == expected(scans)


def test_an_interrupted_run_says_so_and_keeps_its_pages(
    running: subprocess.Popen[str], tmp_path: Path
) -> None:
    running.send_signal(signal.SIGINT)
    running.send_signal(signal.SIGCONT)
    assert running.wait() == 130
    assert pages(tmp_path / "out").total() >= 6
    assert running.stderr is not None
    assert "the same command reads the rest" in running.stderr.read()


def test_too_many_errors(tmp_path: Path, server: Server) -> None:
    """On a server, which loads no models: no page is read."""
    folder = tmp_path / "in"
    folder.mkdir()
    for index in range(3):
        (folder / f"{index}.png").write_bytes(picture()[:60])
    done = bulk(folder, tmp_path / "out", "--server", server.base)
    assert done.returncode == 1
    assert "3 of 3 pages failed, more than --max-error-rate 0.05; the first: " in done.stderr


def test_another_runs_output_is_refused(tmp_path: Path, scans: Path, built: Path) -> None:
    out = tmp_path / "out"
    out.mkdir()
    (out / "_settings.json").write_text(json.dumps({"format": "parquet", "pages_at_a_time": 4}))
    done = bulk(scans, out)
    assert (done.returncode, done.stderr.count("\n")) == (1, 2)
    assert "written by a run with another pages_at_a_time: 4, not 8" in done.stderr


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--server", "http://127.0.0.1:1"), "does not answer as ocr-hpi serve"),
        (("--server", "x", "--ray", "auto"), "--server: the servers say pipeline and device"),
        (("--ray", "127.0.0.1:1"), "--ray: no cluster at 127.0.0.1:1"),
        (("--text-det-thresh", "7"), "--text-det-thresh: must be at most 1"),
    ],
)
def test_wrong_usage_is_said(options: tuple[str, ...], message: str, scans: Path) -> None:
    done = bulk(scans, "/nowhere", *options)
    assert done.returncode in (1, 2)
    assert message in done.stderr


def test_an_output_in_the_input_is_refused(scans: Path) -> None:
    done = bulk(scans, scans / "read")
    assert done.returncode == 2
    assert "its shards would be read, too" in done.stderr
    assert not (scans / "read").exists()


@pytest.fixture
def bucket(scans: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """A bucket of a local S3 server with two pages, and a tar archive with two more."""
    key = {
        "AWS_ACCESS_KEY_ID": "a",
        "AWS_SECRET_ACCESS_KEY": "b",
        "AWS_DEFAULT_REGION": "us-east-1",
    }
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    for name, value in {**key, "AWS_ENDPOINT_URL": f"http://127.0.0.1:{port}"}.items():
        monkeypatch.setenv(name, value)
    program = f"from moto.server import main; main(['-p', '{port}'])"
    with (tmp_path / "log").open("w") as log:
        server = subprocess.Popen([sys.executable, "-c", program], stdout=log, stderr=log)
    with server:
        assert eventually(lambda: "Running on" in (tmp_path / "log").read_text())
        with tarfile.open(tmp_path / "shard.tar", "w") as archive:
            for name in ("002.png", "003.png"):
                archive.add(scans / name, name)
        # In a process of its own: its event loop would outlive the test.
        put = (
            "import sys, fsspec; store = fsspec.filesystem('s3'); store.mkdir('bucket')\n"
            "for path in sys.argv[1:]: store.put(path, 'bucket/scans/' + path.split('/')[-1])"
        )
        files = [scans / "000.png", scans / "001.png", tmp_path / "shard.tar"]
        subprocess.run([sys.executable, "-c", put, *map(str, files)], check=True)
        yield "s3://bucket/scans"
        server.terminate()


def test_an_object_store(tmp_path: Path, scans: Path, built: Path, bucket: str) -> None:
    done = bulk(bucket, tmp_path / "out")
    assert done.returncode == 0, done.stderr
    assert pages(tmp_path / "out") == Counter(
        (f"{bucket}/{name}", 0)
        for name in ("000.png", "001.png", "shard.tar/002.png", "shard.tar/003.png")
    )
    assert not any(row["error"] for row in rows(tmp_path / "out"))
