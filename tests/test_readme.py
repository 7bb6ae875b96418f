"""The README's commands are those that the tests run."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import yaml
from click.testing import CliRunner

from serving.cli import main
from serving.config import load_config


@pytest.fixture(scope="module")
def readme(repo: Path) -> str:
    return (repo / "README.md").read_text(encoding="utf-8")


def commands(readme: str) -> list[list[str]]:
    blocks = re.findall(r"```sh\n(.*?)```", readme, re.DOTALL)
    return [line.split() for block in blocks for line in block.splitlines() if line]


def test_every_file_that_a_command_names_exists(readme: str, repo: Path) -> None:
    for words in commands(readme):
        for word in words:
            path = word.split("=")[-1].lstrip("@").strip('"').removeprefix("image=@")
            if path.startswith(("scripts/", "configs/", "docs/")):
                assert (repo / path).is_file(), word
    for target in re.findall(r"\]\(([^)h][^)]*)\)", readme):
        assert (repo / target).is_file(), target


def test_the_commands_are_known(readme: str) -> None:
    scripts = {words[1] for words in commands(readme) if words[0] == "bash"}
    assert {"scripts/serve.sh", "scripts/build_engines.sh", "scripts/benchmark.sh"} <= scripts
    for words in commands(readme):
        if words[0].endswith("ocr-hpi"):
            assert CliRunner().invoke(main, [words[1], "--help"]).exit_code == 0


def test_plan_and_doctor_run(repo: Path, built: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(repo)
    shown = CliRunner().invoke(main, ["plan", "--models", str(built)])
    assert shown.exit_code == 0, shown.output
    assert "PP-OCRv4_mobile_rec" in shown.output
    assert "chosen" in shown.output
    looked = CliRunner().invoke(main, ["doctor"])
    assert looked.exit_code == 0, looked.output
    assert "openvino" in looked.output


def test_the_python_of_the_readme_compiles_and_its_first_lines_are_the_pictures(
    readme: str, repo: Path, built: Path
) -> None:
    from serving import load_pipeline

    for block in re.findall(r"```python\n(.*?)```", readme, re.DOTALL):
        compile(block, "README.md", "exec")
    (told,) = re.findall(r'"data": "(The [^"]+)"', readme)
    with load_pipeline(repo / "configs/PP-OCRv4_mobile.yaml", models=built) as pipeline:
        (result,) = pipeline.predict(repo / "docs/page.jpg")
    assert result.lines[0].text == told


def test_the_table_of_pipelines_is_what_is_shipped(readme: str, repo: Path) -> None:
    for path in (repo / "configs").rglob("*.yaml"):
        assert f"{path.relative_to(repo)}" in readme
        assert yaml.safe_load(path.read_text())["pipeline_name"] == "OCR"
        load_config(path)
