"""`ocr-hpi bundle`, and a machine without a network that serves from what it packs."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tarfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from http_server import PATIENCE

from serving.config import load_config
from serving.models.pipeline_models import pipeline_models
from serving.plan.graphs import Graphs


@pytest.fixture(scope="module")
def bundle(built: Path, repo: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("bundle") / "ocr.tar"
    cli = [sys.executable, "-m", "serving.cli", "bundle", str(out), "--models", str(built)]
    done = subprocess.run(cli, cwd=repo, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith(f"{out}: ")
    return out


def test_a_bundle_has_what_the_pipeline_needs_and_no_plan(
    bundle: Path, built: Path, repo: Path
) -> None:
    with tarfile.open(bundle) as archive:
        names = set(archive.getnames())
    for part in pipeline_models(load_config(repo / "configs" / "PP-OCRv4_mobile.yaml"), built):
        assert f"models/{part.folder.name}/inference.yml" in names
        graph = Graphs(built).find(part.folder, part.model)
        assert {f"models/{graph.relative_to(built)}{end}" for end in ("", ".sha256")} <= names
    others = {path.name for path in built.iterdir() if path.name.startswith("PP-OCRv6")}
    assert not [name for name in names if {"plans", "trials", *others} & set(name.split("/"))]
    wheels = {name.split("/")[1].split("-")[0] for name in names if name.startswith("wheels/")}
    assert {"paddleocr_hpi_serving", "onnxruntime", "openvino", "setuptools"} <= wheels
    assert [path.name for path in bundle.parent.iterdir()] == [bundle.name]


@pytest.fixture
def clone(unwarmed: Path, repo: Path, tmp_path: Path) -> Path:
    """A fresh clone, with a plan for this machine and nothing else."""
    clone = tmp_path / "clone"
    for name in ("scripts", "configs", "requirements", "serving", "benchmarks"):
        ignored = shutil.ignore_patterns("__pycache__")
        shutil.copytree(repo / name, clone / name, ignore=ignored, symlinks=True)
    for name in ("setup.cfg", "pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(repo / name, clone)
    shutil.copytree(unwarmed / "engines" / "plans", clone / "models" / "engines" / "plans")
    return clone


@pytest.fixture
def offline(bundle: Path, clone: Path) -> Iterator[subprocess.Popen[str]]:
    """serve.sh in a network namespace that has a loopback and no route."""
    serve = f"exec bash scripts/serve.sh --from-bundle {bundle} --port 8868"
    user = [] if os.geteuid() == 0 else ["--map-root-user"]
    with (clone / "log").open("w") as log:
        server = subprocess.Popen(
            ["unshare", *user, "--net", "bash", "-c", f"ip link set lo up; {serve}"],
            cwd=clone,
            # To compile all that is installed takes longer than to install it.
            env={
                **os.environ,
                "PYTHON": sys.executable,
                "PIP_NO_CACHE_DIR": "1",
                "PIP_NO_COMPILE": "1",
            },
            stdout=subprocess.PIPE,
            stderr=log,
            text=True,
        )
    with server:
        yield server
        server.terminate()


def test_a_machine_without_a_network_serves_from_a_bundle(
    offline: subprocess.Popen[str], clone: Path, repo: Path
) -> None:
    assert offline.stdout is not None
    ready = offline.stdout.readline()
    log = (clone / "log").read_text()
    assert ready == "ready http://127.0.0.1:8868\n", log
    assert "preparing" not in log and "already" not in log  # the plan fits: nothing was built
    inside = ["nsenter", f"--net=/proc/{offline.pid}/ns/net", "curl", "--silent", "--form"]
    image = f"image=@{repo / 'docs' / 'page.jpg'}"
    url = "http://127.0.0.1:8868/ocr/v1/accurate"
    answer = subprocess.run([*inside, image, url], capture_output=True, text=True, timeout=PATIENCE)
    assert "Northgate" in answer.stdout
    assert not (clone / ".venv-build").exists()
