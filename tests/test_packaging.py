"""What the wheel holds: what a server needs, and nothing of what only measures it."""

from __future__ import annotations

import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest


def test_the_wheel_holds_the_package_and_no_benchmarks(repo: Path, tmp_path: Path) -> None:
    pytest.importorskip("setuptools", minversion="77")  # an older one has no `license`
    source = tmp_path / "source"
    ignore = shutil.ignore_patterns("__pycache__")
    for folder in ("serving", "benchmarks"):
        shutil.copytree(repo / folder, source / folder, ignore=ignore)
    for name in ("setup.cfg", "pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(repo / name, source)
    build = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation"]
    subprocess.run([*build, "--wheel-dir", str(tmp_path), str(source)], check=True)
    (wheel,) = tmp_path.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        names = archive.namelist()
        (metadata,) = (name for name in names if name.endswith(".dist-info/METADATA"))
        text = archive.read(metadata).decode()
    assert {name.split("/")[0].partition("-")[0] for name in names} == {
        "serving",
        "paddleocr_hpi_serving",
    }
    assert {
        "serving/http/page/index.html",
        "serving/data/models.yaml",
        "serving/data/calibration/truth.json",
    } <= set(names)
    assert "Provides-Extra: benchmark" in text
