"""PaddleOCR's own clients, unchanged, on a real server: the command line, the library, MCP."""

from __future__ import annotations

import base64
import json
import os
import re
import signal
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import requests
from http_server import PATIENCE, Server, eventually, real_server
from paddlex_env import paddlex_python, run_there
from PIL import Image

from benchmarks.corpus import Sample
from benchmarks.soak import pdf
from serving.http.errors import JOBS
from serving.http.keys import new_key

KEY, LINE = new_key("alice")
OTHER, OTHERS_LINE = new_key("bob")


@dataclass
class Real:
    """A server with models, which asks for no key."""

    process: subprocess.Popen[str]
    url: str
    spool: Path


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory, sample_page: Sample) -> Path:
    folder = tmp_path_factory.mktemp("clients")
    (folder / "keys.txt").write_text(f"{LINE}\n{OTHERS_LINE}\n")
    (folder / "report.pdf").write_bytes(pdf(sample_page.image[:400], 3))
    return folder


@pytest.fixture(scope="module")
def real(unwarmed: Path, folder: Path) -> Iterator[Real]:
    """Tests may kill its worker."""
    spool = folder / "spool"
    options = ("--models", str(unwarmed), "--spool", str(spool))
    with real_server(folder / "log", *options) as (process, url):
        yield Real(process, url, spool)


@pytest.fixture(scope="module")
def url(folder: Path) -> Iterator[str]:
    """A server that asks for a key. It needs no models: what it reads is the other one's matter."""
    server = Server(
        folder,
        api_keys_file=str(folder / "keys.txt"),
        spool=str(folder / "others"),
        max_spool=1 << 30,
    )
    yield server.wait_ready().base
    assert server.end() == 0


def paddleocr(
    repo: Path, url: str, file: Path, *options: str, key: str = KEY
) -> subprocess.CompletedProcess[str]:
    command = paddlex_python(repo).with_name("paddleocr")
    asked = ("--model_type", "ocr", "--base_url", url, "--token", key, "--file_path", str(file))
    return subprocess.run([command, "api", *asked, *options], capture_output=True, text=True)


def test_the_command_line_reads_pages_of_a_pdf(repo: Path, real: Real, folder: Path) -> None:
    options = ("--page_ranges", "1,3", "--use_textline_orientation", "False")
    done = paddleocr(repo, real.url, folder / "report.pdf", *options)
    assert done.returncode == 0, done.stderr
    first, second = (page["prunedResult"] for page in json.loads(done.stdout)["pages"])
    assert first["rec_texts"] == second["rec_texts"] != []
    assert first["model_settings"]["use_textline_orientation"] is False


@pytest.mark.parametrize(
    ("file", "options", "key", "said"),
    [
        ("report.pdf", (), "wrong", "Authentication failed: unknown API key"),
        ("keys.txt", (), KEY, "HTTP 415: unsupported format"),
        ("report.pdf", ("--visualize", "True"), KEY, "Bad request: visualize"),
    ],
    ids=["key", "format", "option"],
)
def test_the_command_line_says_what_is_wrong(
    repo: Path, url: str, folder: Path, file: str, options: tuple[str, ...], key: str, said: str
) -> None:
    done = paddleocr(repo, url, folder / file, *options, key=key)
    assert done.returncode == 1
    assert said in done.stderr


def test_the_library_submits_polls_and_asks_for_a_batch(repo: Path, url: str, folder: Path) -> None:
    program = folder / "library.py"
    program.write_text(
        f"""
from paddleocr import PaddleOCRClient
with PaddleOCRClient(token={KEY!r}, base_url={url!r}) as client:
    job = client.submit_ocr(file_path={str(folder / "report.pdf")!r}, batch_id="b1")
    result = client.wait_ocr_result(job)
    status = client.get_status(job.job_id)
    [other] = client.get_batch_status("b1").jobs
assert len(result.pages) == 3 == result.data_info["numPages"], result.data_info
assert status.state == other.state == "done"
assert status.progress.extracted_pages == status.progress.total_pages == 3
with PaddleOCRClient(token={OTHER!r}, base_url={url!r}) as client:
    try:
        client.get_status(job.job_id)
    except Exception as error:
        print(error)
"""
    )
    done = run_there(repo, program)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("HTTP 404: you have no such job")


def test_a_killed_workers_job_has_the_result_of_a_request(real: Real, folder: Path) -> None:
    data = (folder / "report.pdf").read_bytes()
    asked = {"file": base64.b64encode(data).decode(), "visualize": False}
    expected = requests.post(f"{real.url}/ocr", json=asked, timeout=PATIENCE).json()["result"]
    jobs = f"{real.url}{JOBS}jobs"
    sent = requests.post(jobs, data={"model": "PP-OCRv6"}, files={"file": data}, timeout=PATIENCE)
    job = f"{jobs}/{sent.json()['data']['jobId']}"

    def status() -> dict[str, Any]:
        try:
            found: dict[str, Any] = requests.get(job, timeout=PATIENCE).json()["data"]
        except requests.ConnectionError:  # no worker yet
            return {"state": "pending", "extractProgress": {"extractedPages": 0}}
        return found

    assert eventually(lambda: status()["extractProgress"]["extractedPages"] > 0)
    master = real.process.pid
    children = Path(f"/proc/{master}/task/{master}/children").read_text()
    for worker in map(int, children.split()):
        os.kill(worker, signal.SIGKILL)
    # The next worker loads the models.
    assert eventually(lambda: status()["state"] == "done", 5 * PATIENCE)
    text = requests.get(status()["resultUrl"]["jsonUrl"], timeout=PATIENCE).text
    results = [json.loads(line)["result"] for line in text.splitlines()]
    assert [page for result in results for page in result["ocrResults"]] == expected["ocrResults"]
    assert results[-1]["dataInfo"] == expected["dataInfo"]
    assert len(results) == 3


def test_the_mcp_server_as_the_page_configures_it(repo: Path, real: Real, tmp_path: Path) -> None:
    python = repo / ".venv-mcp" / "bin" / "python"
    if not python.is_file() and not os.environ.get("OCR_HPI_REQUIRE_MCP"):
        pytest.skip("needs .venv-mcp: OCR_HPI_REQUIRE_MCP=1 bash scripts/test.sh")
    [config] = re.findall(
        r"```json\n(\{\n  \"mcp.*?)```", (repo / "docs/http.md").read_text(), re.S
    )
    config = config.replace("http://127.0.0.1:8868", real.url)
    config = config.replace('"paddleocr_mcp"', json.dumps(str(python.with_name("paddleocr_mcp"))))
    (tmp_path / "mcp.json").write_text(config)
    with Image.open(repo / "docs" / "page.jpg") as page:
        page.crop((0, 0, page.width, 200)).save(tmp_path / "page.png")
    client = repo / "tests" / "support" / "mcp_client.py"
    before = len(list(real.spool.iterdir()))
    done = subprocess.run(
        [python, client, tmp_path / "mcp.json", tmp_path / "page.png"],
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr[-4000:]
    answers = json.loads(done.stdout)
    assert len(list(real.spool.iterdir())) == before + 1
    assert answers["jobs"] == answers["requests"]
    assert "Northgate" in answers["jobs"]
