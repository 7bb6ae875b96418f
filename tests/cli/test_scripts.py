"""What the scripts tell before they install or build anything, and what they never delete."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from serving.cli.serve import command

ROOT = Path(__file__).resolve().parents[2]
YAML = "configs/PP-OCRv4_mobile.yaml"


@pytest.fixture
def clone(tmp_path: Path) -> Path:
    """A fresh clone, on a machine without a package index."""
    for name in ("scripts", "configs", "requirements"):
        shutil.copytree(ROOT / name, tmp_path / name)
    for name in ("setup.cfg", "pyproject.toml"):
        shutil.copy(ROOT / name, tmp_path)
    return tmp_path


def script(clone: Path, name: str, *arguments: str, **env: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        ["bash", f"scripts/{name}.sh", *arguments],
        cwd=clone,
        env={**os.environ, "PIP_NO_INDEX": "1", "PYTHON": sys.executable, **env},
        capture_output=True,
        text=True,
        timeout=120,
    )


def environments(clone: Path) -> list[str]:
    return sorted(path.name for path in clone.glob(".venv*"))


@pytest.fixture
def port_in_use() -> Iterator[int]:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        yield listener.getsockname()[1]


NAMES = sorted({path.stem for path in (ROOT / "scripts").glob("*.sh")} - {"lib"})


@pytest.mark.parametrize("name", NAMES)
def test_help_installs_nothing(clone: Path, name: str) -> None:
    done = script(clone, name, "--help")
    assert done.returncode == 0, done.stderr
    assert f"{name}" in done.stdout or name in ("lock_requirements", "subset_fonts")
    assert len(done.stdout) > 40
    assert environments(clone) == []


@pytest.mark.parametrize(
    ("name", "arguments", "words"),
    [
        ("serve", ("--pipeline", YAML), "is not NAME=YAML, for example accurate=configs/"),
        ("serve", ("--pipeline", "=x.yaml"), "is not NAME=YAML"),
        ("serve", ("--shadow", YAML), "is not NAME=YAML"),
        ("serve", ("--shadow", "accurate=configs/none.yaml"), "configs/none.yaml: no such file"),
        ("serve", ("--pipeline=a=configs/none.yaml",), "configs/none.yaml: no such file"),
        ("serve", ("--prot", "80"), "--prot: no option of serve.sh"),
        ("serve", (YAML,), "no option of serve.sh"),
        ("serve", ("--port",), "--port needs a value"),
        ("serve", ("--port", "abc"), "--port abc: not a number"),
        ("serve", ("--port", "70000"), "the highest is 65535"),
        ("serve", ("--workers=two",), "--workers two: not a number"),
        ("serve", ("--api-keys-file", "none.txt"), "none.txt: cannot be read"),
        ("serve", ("--from-bundle", "none.tar"), "--from-bundle none.tar: cannot be read"),
        ("build_engines", ("configs/none.yaml",), "configs/none.yaml: no such file"),
        ("fetch_models", ("configs/none.yaml",), "configs/none.yaml: no such file"),
        ("benchmark", ("--data", "nowhere"), "--data nowhere: no such folder"),
        ("benchmark", ("--data=nowhere",), "--data nowhere: no such folder"),
        ("benchmark", ("--pipeline", "configs/none.yaml"), "configs/none.yaml: no such file"),
        ("benchmark", ("--soak",), "--soak needs a value"),
        ("check_gpu", ("--images", "nowhere"), "--images nowhere: no such folder"),
        ("check_gpu", ("none.yaml",), "none.yaml: no such file"),
        ("install_hpi_deps", ("npu",), "usage: "),
    ],
)
def test_wrong_usage_is_told_before_anything_is_installed(
    clone: Path, name: str, arguments: tuple[str, ...], words: str
) -> None:
    done = script(clone, name, *arguments)
    assert done.returncode == 2
    assert words in done.stderr
    assert "installing" not in done.stderr
    assert environments(clone) == []


def test_settings_of_the_environment_are_looked_at_too(clone: Path) -> None:
    done = script(clone, "serve", OCR_HPI_PIPELINE=f"a={YAML},{YAML}")
    assert done.returncode == 2
    assert f"'{YAML}' is not NAME=YAML" in done.stderr
    assert script(clone, "serve", OCR_HPI_PORT="x").returncode == 2


def test_a_port_in_use_is_told_before_anything_is_installed(clone: Path, port_in_use: int) -> None:
    done = script(clone, "serve", "--port", str(port_in_use))
    assert done.returncode == 1
    assert f"cannot listen on 127.0.0.1 port {port_in_use}: Address already in use" in done.stderr
    assert environments(clone) == []


def test_serve_sh_knows_every_option_of_serve() -> None:
    text = (ROOT / "scripts" / "serve.sh").read_text()
    flags = [flag for option in command.params for flag in option.opts]
    assert [flag for flag in flags if f"{flag} |" not in text and f"{flag})" not in text] == []


def test_check_looks_at_port_keys_and_yaml_without_models(tmp_path: Path, port_in_use: int) -> None:
    def check(*arguments: str) -> subprocess.CompletedProcess[str]:
        cli = [sys.executable, "-m", "serving.cli", "serve", "--check", "--models", str(tmp_path)]
        return subprocess.run([*cli, *arguments], capture_output=True, text=True, cwd=ROOT)

    assert check("--port", "0").returncode == 0
    assert "in use" in check("--port", str(port_in_use)).stderr
    keys = tmp_path / "keys"
    keys.write_text("none\n")
    assert "not NAME:SHA256" in check("--port", "0", "--api-keys-file", str(keys)).stderr
    yaml = tmp_path / "wrong.yaml"
    yaml.write_text("pipeline_name: OCR\n")
    wrong = check("--port", "0", "--pipeline", f"a={yaml}")
    assert (wrong.returncode, wrong.stdout) == (1, "")
    assert "SubModules: missing" in wrong.stderr


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can chown")
def test_another_users_environment_is_left_alone(clone: Path) -> None:
    environment = clone / ".venv"
    (environment / "bin").mkdir(parents=True)
    (environment / "bin" / "python").write_text("broken for us")
    (environment / ".ocr-hpi-stamp").write_text("cpu")
    for path in (environment, *environment.rglob("*")):
        os.chown(path, 65534, 65534)
    done = script(clone, "serve", "--port", "0")
    assert done.returncode == 1
    assert f"{environment} belongs to nobody, and this is root: nothing was changed" in done.stderr
    assert (environment / "bin" / "python").read_text() == "broken for us"
    assert (environment / ".ocr-hpi-stamp").read_text() == "cpu"


def test_an_environment_of_other_tools_is_left_alone(clone: Path) -> None:
    (clone / ".venv").mkdir()
    (clone / ".venv" / "pyvenv.cfg").write_text("uv = 1\n")
    done = script(clone, "serve", "--port", "0")
    assert done.returncode == 1
    assert "these scripts did not make it" in done.stderr
    assert (clone / ".venv" / "pyvenv.cfg").read_text() == "uv = 1\n"


def test_a_broken_environment_of_ours_is_made_again(clone: Path) -> None:
    (clone / ".venv").mkdir()
    (clone / ".venv" / ".ocr-hpi-making").write_text("cpu\n")
    (clone / ".venv" / "remains").touch()
    done = script(clone, "serve", "--port", "0")
    assert done.returncode == 1  # no package index
    assert "making " in done.stderr and "pip could not install" in done.stderr
    assert not (clone / ".venv" / "remains").exists()
    assert (clone / ".venv" / "bin" / "python").exists()
