"""What `enable()` says of a PaddleX that is not the one it stands on."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from serving.errors import ConfigError, EngineError
from serving.integrations.paddlex import enable


def fake_paddlex(folder: Path, version: str, hpi: str) -> None:
    """A distribution `paddlex` of that version, whose engine hpi is that source."""
    engines = folder / "paddlex" / "inference" / "models" / "engines"
    engines.mkdir(parents=True)
    for package in (engines, *engines.parents[:3]):
        (package / "__init__.py").touch()
    (engines / "hpi.py").write_text(hpi)
    installed(folder, "paddlex", version)


def installed(folder: Path, name: str, version: str) -> None:
    """What pip leaves of a distribution."""
    about = folder / f"{name}-{version}.dist-info"
    about.mkdir()
    (about / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n")


def enabling(folder: Path, repo: Path) -> str:
    """What `enable()` says in a process that finds PaddleX in `folder`."""
    code = (
        "import serving.integrations.paddlex, serving.errors\n"
        "try: serving.integrations.paddlex.enable()\n"
        "except serving.errors.EngineError as error: print(error)"
    )
    path = os.pathsep.join([str(folder), str(repo)])
    command = [sys.executable, "-c", code]
    done = subprocess.run(
        command, env={**os.environ, "PYTHONPATH": path}, capture_output=True, text=True, check=True
    )
    return done.stdout


def test_says_that_paddlex_is_of_another_series(tmp_path: Path, repo: Path) -> None:
    fake_paddlex(tmp_path, "3.70.1", "")
    said = enabling(tmp_path, repo)
    assert "PaddleX 3.70.1" in said and "PaddleX 3.7 is supported" in said and "pip install" in said


def test_says_what_has_moved_in_paddlex(tmp_path: Path, repo: Path) -> None:
    source = "class HPIEngine:\n    def build_runner(self, model, binding): ..."
    fake_paddlex(tmp_path, "3.7.9", source)
    said = enabling(tmp_path, repo)
    assert "PaddleX 3.7.9 differs" in said
    assert "has no HPIEngine.ensure_environment" in said
    assert "HPIEngine.build_runner takes (self, model, binding), not (self, model_name," in said


def test_says_that_paddleocr_is_of_another_series(tmp_path: Path, repo: Path) -> None:
    fake_paddlex(tmp_path, "3.7.2", "")
    installed(tmp_path, "paddleocr", "3.8.0")
    said = enabling(tmp_path, repo)
    assert "PaddleOCR 3.8.0 is installed" in said and "PaddleOCR 3.7 is supported" in said


def test_says_which_gates_there_are() -> None:
    with pytest.raises(ConfigError, match=r"gate: 'tight': must be default, strict, exact"):
        enable(gate="tight")  # type: ignore[arg-type]


def test_says_that_paddlex_is_absent() -> None:
    with pytest.raises(EngineError, match="PaddleX is not installed"):
        enable()
