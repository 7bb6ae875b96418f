"""Pipelines that take longer for a page give way to the fastest one of a worker."""

from __future__ import annotations

import os
from contextlib import closing, suppress
from dataclasses import replace
from pathlib import Path

from plans import deploy_like_default, warm_nothing

from benchmarks.servers import OurServer
from serving.config import load_config
from serving.machine import usable_cores
from serving.plan.plan import find_plan, save_plan

YAML = Path("configs/PP-OCRv4_mobile.yaml")


def nicenesses(pid: int) -> set[int]:
    """Of all threads of a process and its children."""
    found = set()
    for task in Path(f"/proc/{pid}/task").iterdir():
        with suppress(FileNotFoundError, ProcessLookupError):  # it has just ended
            found.add(int((task / "stat").read_text().rpartition(")")[2].split()[16]))
            for child in (task / "children").read_text().split():
                found |= nicenesses(int(child))
    return found


def test_the_slower_pipelines_threads_are_nicer(repo: Path, built: Path, tmp_path: Path) -> None:
    models, other = tmp_path / "models", tmp_path / "other.yaml"
    models.mkdir()
    other.write_text(
        (repo / YAML).read_text().replace("limit_side_len: 960", "limit_side_len: 928")
    )
    default, slow = load_config(repo / YAML), load_config(other)
    deploy_like_default(models, built, default, slow)
    warm_nothing(models, default)
    served = {"slow": other, "fast": repo / YAML}
    with closing(OurServer(served, models)):
        [own] = nicenesses(os.getpid())
    plan = find_plan(slow, models)
    longer = [replace(each, latency_ms=2 * each.latency_ms) for each in plan.combinations]
    save_plan(models, slow, usable_cores(), "cpu", replace(plan, combinations=tuple(longer)))
    with closing(OurServer(served, models)):
        assert nicenesses(os.getpid()) == {own, own + 8}
