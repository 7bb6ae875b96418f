"""Imports go one way (CONTRIBUTING, "House rules")."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

LAYERS = [
    {"errors", "types", "machine"},
    {"child", "config", "data", "devices", "disk", "download", "progress", "scores"},
    {"models", "imaging"},
    {"engines"},
    {"optimize", "ocr"},
    {"plan"},
    {"output"},
    {"integrations"},
    {"api"},
    {"bulk"},
    {"evaluate"},
    {"http"},
    {"cli"},
]
RANK = {name: rank for rank, layer in enumerate(LAYERS) for name in layer}
VENDORS = {"openvino", "onnxruntime", "paddle", "paddlex", "onnx"}


def modules(repo: Path) -> list[Path]:
    return sorted((repo / "serving").rglob("*.py"))


def part(path: Path, repo: Path) -> str:
    return path.relative_to(repo / "serving").parts[0].removesuffix(".py")


def imported(tree: ast.AST) -> set[str]:
    names: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            names.add(node.module or "")
            names |= {f"{node.module}.{alias.name}" for alias in node.names}
    return names


def test_every_module_has_a_layer(repo: Path) -> None:
    parts = {part(path, repo) for path in modules(repo)} - {"__init__"}
    assert parts <= RANK.keys()


def test_imports_go_one_way(repo: Path) -> None:
    for path in modules(repo):
        here = part(path, repo)
        if here == "__init__":
            continue
        for name in imported(ast.parse(path.read_text(encoding="utf-8"))):
            there = name.split(".")[1] if name.startswith("serving.") else here
            if there in RANK and there != here:
                assert RANK[there] < RANK[here], f"{path.relative_to(repo)} imports {name}"


@pytest.mark.parametrize("vendor", sorted(VENDORS))
def test_a_backend_is_imported_in_its_own_file_only(repo: Path, vendor: str) -> None:
    """At the top of a file, that is: elsewhere it is imported where it is used."""
    users = set()
    for path in modules(repo):
        top = ast.Module(
            [
                node
                for node in ast.parse(path.read_text()).body
                if isinstance(node, ast.Import | ast.ImportFrom)
            ],
            [],
        )
        if any(name.split(".")[0] == vendor for name in imported(top)):
            users.add(path.relative_to(repo / "serving").as_posix())
    assert users <= {f"engines/{vendor}.py", "models/conversion_child.py"}


def test_the_package_does_not_import_benchmarks(repo: Path) -> None:
    """Not even inside a function: they are not installed."""
    for path in modules(repo):
        names = imported(ast.parse(path.read_text(encoding="utf-8")))
        assert not [name for name in names if name.split(".")[0] == "benchmarks"], path


def test_a_server_does_not_load_what_scores_texts_and_boxes() -> None:
    """Its libraries would make every start slower; builds, evaluations and shadows need them."""
    program = "import sys, serving.http.gunicorn.master, serving.http.app; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert not {"serving.scores", "shapely", "rapidfuzz"} & set(done.stdout.split())
