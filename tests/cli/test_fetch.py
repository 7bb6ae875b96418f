"""`ocr-hpi fetch`, `ocr-hpi build --pending-conversions` and what all subcommands share."""

from __future__ import annotations

import subprocess
import sys
from importlib import import_module
from pathlib import Path

import click
import pytest
from click.testing import CliRunner, Result
from store_server import FILES, serving_models, tar_of

from serving import cli
from serving.cli.options import DEFAULT_PIPELINES, named_models

NAME = "PP-OCRv4_server_det"
PIPELINE = """\
pipeline_name: OCR
use_doc_preprocessor: False
use_textline_orientation: False
SubModules:
  TextDetection: {model_name: PP-OCRv4_server_det, model_dir: null}
  TextRecognition: {model_name: my_rec, model_dir: DIR}
"""


def run(*arguments: object) -> Result:
    return CliRunner().invoke(cli.main, [str(argument) for argument in arguments])


@pytest.fixture
def my_rec(tmp_path: Path) -> Path:
    folder = tmp_path / "my_rec"
    folder.mkdir()
    for name, content in FILES.items():
        (folder / name).write_bytes(content)
    return folder


def test_the_models_of_a_pipeline(tmp_path: Path, my_rec: Path) -> None:
    pipeline = tmp_path / "my.yaml"
    pipeline.write_text(PIPELINE.replace("DIR", str(my_rec)))
    with serving_models() as server:
        server.files[f"/{NAME}_infer.tar"] = tar_of(FILES)
        command = ("fetch", pipeline, "--models", tmp_path / "models", "--mirror", server.url)
        first, second = run(*command), run(*command)
    assert first.exit_code == second.exit_code == 0
    assert first.stdout.splitlines() == [
        f"my_rec: your own, in {my_rec}",
        f"{NAME}: fetched from {server.url}/{NAME}_infer.tar",
    ]
    assert second.stdout.splitlines()[1] == f"{NAME}: already there"
    assert {path.name for path in (tmp_path / "models").iterdir()} == {
        ".lock", "hashes.json", NAME,
    }  # fmt: skip
    assert len(list(my_rec.iterdir())) == len(FILES)  # read, never written


def test_the_default_models_are_on_package_indexes(
    repo: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from serving.models.manifest import WheelSource
    from serving.models.store import Store

    monkeypatch.chdir(repo)
    known = Store("models").manifest.models
    for name, folder in named_models(DEFAULT_PIPELINES):
        assert folder is None
        assert isinstance(known[name].sources[0], WheelSource)


def test_from_a_path(tmp_path: Path, my_rec: Path) -> None:
    models = tmp_path / "models"
    done = run("fetch", "--from", my_rec, "--models", models, "fine_tuned")
    assert done.exit_code == 0
    assert done.stdout == f"fine_tuned: fetched from {my_rec}\n"
    assert run("fetch", "--from", my_rec, "--models", models).exit_code == 2
    assert run("fetch", "--from", my_rec, "--models", models, "a", "b").exit_code == 2
    assert run("fetch", "--from", tmp_path / "no", "--models", models, "a").exit_code == 2


def test_an_error_is_one_clear_line(tmp_path: Path) -> None:
    failed = run("fetch", "--models", tmp_path, "no_such_model")
    assert failed.exit_code == 1
    assert failed.stdout == ""
    assert failed.stderr.startswith("Error: no_such_model: No source of this model is known.")
    assert failed.stderr.count("\n") == 1


@pytest.mark.parametrize("where", ["before", "after"])
def test_debug_shows_the_traceback(tmp_path: Path, where: str) -> None:
    command = ["fetch", "--models", str(tmp_path), "no_such_model"]
    command.insert(0 if where == "before" else len(command), "--debug")
    code = "from serving.cli import main; main()"
    done = subprocess.run([sys.executable, "-c", code, *command], capture_output=True, text=True)
    assert done.returncode == 1
    assert "Traceback" in done.stderr
    assert "serving.errors.ModelMissing: no_such_model" in done.stderr


def test_an_unexpected_error_is_one_line_too(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: object) -> None:
        raise ZeroDivisionError("by zero")

    monkeypatch.setattr("serving.cli.fetch.named_models", broken)
    failed = run("fetch", "x.yaml")
    assert failed.exit_code == 1
    assert failed.stderr == (
        "Error: ZeroDivisionError: by zero "
        "(unexpected; the same command with --debug shows where)\n"
    )


def test_wrong_usage() -> None:
    assert run("nonsense").exit_code == 2
    assert run("fetch", "--nonsense").exit_code == 2
    assert run("fetch", "--prefer", "pytorch").exit_code == 2


def test_help_of_all() -> None:
    listed = run("--help")
    assert listed.exit_code == 0
    for name, line in cli._COMMANDS.items():
        assert f"{name} " in listed.stdout
        assert line.split()[0] in listed.stdout
        command = import_module(f"serving.cli.{name}").command
        assert isinstance(command, click.Command)
        shown = run(name, "--help")
        assert shown.exit_code == 0
        assert "--debug" in shown.stdout


def test_help_imports_nothing_heavy() -> None:
    code = (
        "import sys\nfrom serving.cli import main\n"
        "try: main(['--help'])\n"
        "except SystemExit: pass\n"
        "heavy = {'numpy', 'yaml', 'requests', 'pydantic', 'flask', 'cv2', 'serving.config'}\n"
        "sys.exit(str(heavy & set(sys.modules)) if heavy & set(sys.modules) else 0)"
    )
    assert subprocess.run([sys.executable, "-c", code], stdout=subprocess.DEVNULL).returncode == 0


def test_pending_conversions(tmp_path: Path, my_rec: Path) -> None:
    pipeline = tmp_path / "my.yaml"
    pipeline.write_text(PIPELINE.replace("DIR", str(my_rec)))
    models = tmp_path / "models"
    missing = run("build", "--pending-conversions", pipeline, "--models", models)
    assert missing.exit_code == 1
    assert "scripts/fetch_models.sh" in missing.stderr

    run("fetch", "--from", my_rec, "--models", models, NAME)
    pending = run("build", "--pending-conversions", pipeline, "--models", models)
    assert pending.stdout.splitlines() == [NAME, "my_rec"]
    (my_rec / "inference.onnx").write_bytes(b"graph")
    pending = run("build", "--pending-conversions", pipeline, "--models", models)
    assert pending.stdout.splitlines() == [NAME]
    assert not (models / "engines").exists()
