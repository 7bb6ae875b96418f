"""A real Ray cluster of two node processes, one of which is killed halfway."""

from __future__ import annotations

import io
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import pyarrow
import pytest
from PIL import Image
from pyarrow import parquet

from benchmarks import corpus
from benchmarks.ray_cluster import ray_cluster

ROOT = Path(__file__).resolve().parents[2]
PAGES = 100


@pytest.fixture(scope="module")
def scans(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Lines of text as small pages, as rows of Parquet; the last one is broken."""
    pages = []
    for line in corpus.lines(seed=17, count=8):
        stream = io.BytesIO()
        Image.fromarray(line.image[..., ::-1]).save(stream, "PNG")
        pages.append(stream.getvalue())
    pages = [pages[index % len(pages)] for index in range(PAGES - 1)] + [b"no image"]
    path = tmp_path_factory.mktemp("scans") / "pages.parquet"
    parquet.write_table(pyarrow.table({"page": pages}), path, row_group_size=50)
    return path


def test_a_killed_node_loses_no_page_and_doubles_none(
    scans: Path, built: Path, tmp_path: Path
) -> None:
    """The second node has no models: it gets them, and the engine plan, from the driver."""
    out = tmp_path / "out"
    with ray_cluster() as (address, send):
        send("add", "-")
        send("add", tmp_path / "models")
        options = ["--ray", address, "--models", str(built), "--shard-pages", "10"]
        command = [sys.executable, "-m", "serving.cli", "bulk", str(scans), str(out), *options]
        with subprocess.Popen(command, stderr=subprocess.PIPE, text=True, cwd=ROOT) as run:
            assert run.stderr is not None
            while not (out / f"part-{PAGES // 20:05}.parquet").exists():
                assert run.poll() is None
                time.sleep(0.02)
            send("kill", 0)
            errors = run.stderr.read()
        assert run.returncode == 0, errors
    assert "gets models and engines" in errors
    assert (tmp_path / "models" / "engines" / "plans").is_dir()
    assert "; read again: " in errors
    rows = parquet.read_table(out).to_pylist()
    assert Counter(row["document"] for row in rows) == Counter(
        f"{scans}#{row}" for row in range(PAGES)
    )
    assert [row["document"] for row in rows if row["error"]] == [f"{scans}#{PAGES - 1}"]
    assert {row["pipeline"].partition("@")[0] for row in rows} == {"PP-OCRv4_mobile"}
