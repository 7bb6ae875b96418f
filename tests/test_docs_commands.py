"""Every command in the README and docs/ is run here, as written, beside a real server."""

from __future__ import annotations

import os
import re
import signal
import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import requests
from docs_text import commands, pages, programs
from http_server import eventually

from benchmarks.corpus import Sample
from benchmarks.soak import pdf

ROOT = Path(__file__).resolve().parent.parent

TESTED_ELSEWHERE = {
    r"bash scripts/install_hpi_deps\.sh gpu": "1.3 GB; test_devices.py",
    r"bash scripts/install_hpi_deps\.sh cpu": "test_bundle.py makes such an environment",
    r"bash scripts/serve\.sh --from-bundle .*|.* bundle ocr\.tar .*": "cli/test_bundle.py",
    r"docker (build|run) .*": "scripts/check_image.sh",
    r"docker compose .*|kubectl .*|sudo .*": "test_deploy.py checks the files",
    r"bash scripts/build_engines\.sh --device gpu": "a GPU; plan/test_gpu_plan.py",
    r"bash scripts/check_gpu\.sh": "a GPU; benchmarks/test_gpu_check.py",
    r"bash scripts/benchmark\.sh .*": "minutes to an hour; benchmarks/",
    r"bash scripts/serve\.sh --pipeline accurate=configs/PP-OCRv6_small\.yaml": "minutes; "
    "test_swap_models.py",
    r"python3 -m pip wheel .*|python3 -m venv \.\./ocr|(cd )?\.\./ocr.*": "test_packaging.py",
    r"python3 -m venv \.venv-paddlex": "test.sh makes it",
    r"\.venv/bin/pip install -e .*": "test.sh installs the extras",
    r".*ocr-hpi bulk .*": "cli/test_bulk.py, bulk/",
    r"\.venv-paddlex/bin/pip install .*": "test.sh makes it",
    r".*\bmy(_rec|\.yaml)\b.*|.*ocr_shadow|.*ocr-hpi swap .*": "test_fine_tuned.py, test_swap.py",
    r".*ocr-hpi evaluate .*": "cli/test_evaluate.py",
    r".*\b(seal|table)\b.*": "integrations/paddlex/test_served.py",
    r"python3 -m venv \.venv-ocrmypdf": "test.sh installs the extra",
    r"\.venv-ocrmypdf/bin/pip install .*": "test.sh installs the extra",
}
"""Command -> why it is not run here, and what tests the same."""

COMMANDS = list(
    dict.fromkeys(
        command
        for text in pages(ROOT).values()
        for command in commands(text)
        if not any(re.fullmatch(pattern, command) for pattern in TESTED_ELSEWHERE)
    )
)
"""In the order of the pages: one creates a file of keys, a later one serves with it."""


def generation(url: str) -> int:
    return int(requests.get(f"{url}/ocr/v1", timeout=30).json()["generation"])


def free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])


class Shell:
    """A folder to run commands in, and a server that serve.sh started. Scripts run in the clone."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        for name in ("configs", "docs", "models", ".venv"):
            (folder / name).symlink_to(ROOT / name)
        path = (
            f"{os.environ['PATH']}:{ROOT / '.venv-paddlex' / 'bin'}"  # last: its python is not ours
        )
        self.environment = {**os.environ, "PATH": path}
        (folder / ".venv-ocrmypdf").symlink_to(ROOT / ".venv-test")
        pidfile = folder / "ocr-hpi.pid"
        self.server, self.url = self.start(f"bash scripts/serve.sh --pidfile {pidfile}")

    def start(self, command: str) -> tuple[subprocess.Popen[str], str]:
        """A server in a session of its own, and its address once it is ready."""
        command = command.replace("keys.txt", f"{self.folder}/keys.txt")
        command = command.replace(" ocr-hpi.pid", f" {self.folder}/second.pid")
        process = subprocess.Popen(
            ["bash", "-c", f"exec {command}"],
            env={
                **os.environ,
                "OCR_HPI_PORT": str(free_port()),
                "OCR_HPI_SPOOL": f"{self.folder}/spool",
            },
            cwd=ROOT,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            start_new_session=True,
        )
        assert process.stdout is not None
        ready = process.stdout.readline()
        assert ready.startswith("ready http://"), command
        return process, ready.split()[1].replace("0.0.0.0", "127.0.0.1")

    def stop(self, process: subprocess.Popen[str]) -> None:
        process.send_signal(signal.SIGTERM)
        assert process.wait(60) == 0
        assert process.stdout is not None
        process.stdout.close()

    def run(self, command: str) -> str:
        """What the command prints. Its server is the one that was started here."""
        here = command.replace("http://127.0.0.1:8868", self.url)
        folder = ROOT if command.startswith("bash scripts/") else self.folder
        done = subprocess.run(
            ["bash", "-c", here],
            cwd=folder,
            env=self.environment,
            capture_output=True,
            timeout=600,
        )
        assert done.returncode == 0, done.stderr.decode()
        return done.stdout.decode(errors="replace")


@pytest.fixture(scope="module")
def shell(
    built: Path, sample_page: Sample, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Shell]:
    assert built.is_dir()
    folder = tmp_path_factory.mktemp("commands")
    (folder / "report.pdf").write_bytes(pdf(sample_page.image, 2))
    shell = Shell(folder)
    yield shell
    shell.stop(shell.server)


@pytest.mark.parametrize("command", COMMANDS)
def test_a_command_does_what_the_page_says(shell: Shell, command: str) -> None:
    if command.startswith("bash scripts/serve.sh"):
        process, url = shell.start(command)
        assert requests.get(f"{url}/health/ready", timeout=30).status_code == 200
        shell.stop(process)
    elif command.startswith("kill -HUP"):
        before = generation(shell.url)
        shell.run(command)
        assert eventually(lambda: generation(shell.url) > before)
    else:
        out = shell.run(command)
        assert ('"error"' in out) == ("partial=true" in command)
        for name in re.findall(r"-o (\S+\.png)", command):  # curl writes an error there as well
            assert (shell.folder / name).read_bytes().startswith(b"\x89PNG")
        for name in re.findall(r"-o (\S+\.pdf)", command):
            assert (shell.folder / name).read_bytes().startswith(b"%PDF-")
        for part, expected in EXPECTED.items():
            if part in command:
                assert expected in out + _written(shell.folder)


def test_the_programs_of_the_python_page_run(
    shell: Shell, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """One after the other, as they are read."""
    labelled = shell.folder / "labelled"
    labelled.mkdir()
    (labelled / "page.jpg").symlink_to(ROOT / "docs" / "page.jpg")
    (labelled / "truth.json").write_text('[{"image": "page.jpg", "lines": [{"text": "TOTAL"}]}]')
    monkeypatch.chdir(shell.folder)
    names: dict[str, Any] = {}
    for program in programs((ROOT / "docs" / "python.md").read_text(encoding="utf-8")):
        exec(program, names)
    names["pipeline"].close()
    out = capsys.readouterr().out
    assert "'1999-10-20'" in out and "image_0 [" in out and "\n1 image_1: unsupported" in out
    assert 0 < names["found"].figures()["token_f1"][0] < 1
    assert (shell.folder / "output" / "page_ocr_res_img.jpg").is_file()


EXPECTED = {
    'image=@docs/page.jpg" http': "Riverton",
    "format=text": "Riverton",
    "/v2/models/accurate": '"boxes"',
    "integrations.ocrmypdf": "found.pdf",
    "format=image": "read.png",
    "pages=2": '"page": 1',
    "pdf_text=auto": '"source": "ocr"',
    "partial=true": "unsupported_media",
    "paddleocr api": "rec_texts",
    "api/v2/ocr/jobs": '"totalPages": 2',
    "format=pdf": "searchable.pdf",
    "format=alto": "report.alto.xml",
    "x-ndjson": '"request_id"',
    "/metrics": "ocr_requests_total",
    "ocr-hpi plan": "PP-OCRv4_mobile_rec",
    "ocr-hpi doctor": "openvino",
    "ocr-hpi key": "keys.txt",
}
"""Part of a command -> what it prints, or the name of a file that it wrote."""


def _written(folder: Path) -> str:
    return " ".join(path.name for path in folder.iterdir())


def test_every_request_has_an_expected_answer() -> None:
    assert len(COMMANDS) >= 8
    assert all(
        any(part in command for part in EXPECTED) for command in COMMANDS if "curl" in command
    )
