"""A real Ray cluster of two node processes, one of which is killed halfway."""

from __future__ import annotations

import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from http_server import eventually
from PIL import Image
from pyarrow import parquet

from benchmarks import corpus

ROOT = Path(__file__).resolve().parents[2]
PAGES = 160
Tell = Callable[..., str]


@pytest.fixture(scope="module")
def scans(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Lines of text as small pages, as rows of Parquet; the last one is broken."""
    import io

    import pyarrow

    pages = []
    for line in corpus.lines(seed=17, count=20):
        stream = io.BytesIO()
        Image.fromarray(line.image[..., ::-1]).save(stream, "PNG")
        pages.append(stream.getvalue())
    pages = [pages[index % len(pages)] for index in range(PAGES - 1)] + [b"no image"]
    path = tmp_path_factory.mktemp("scans") / "pages.parquet"
    parquet.write_table(pyarrow.table({"page": pages}), path, row_group_size=50)
    return path


@pytest.fixture
def cluster() -> Iterator[tuple[str, Tell]]:
    """The address of a cluster, and what tells it to add or to kill nodes."""
    command = [sys.executable, str(ROOT / "tests" / "support" / "ray_cluster.py")]
    with subprocess.Popen(
        command,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    ) as process:
        assert process.stdin is not None and process.stdout is not None
        stdin, stdout = process.stdin, process.stdout

        def tell(*words: object) -> str:
            stdin.write(" ".join(map(str, words)) + "\n")
            stdin.flush()
            return stdout.readline().strip()

        yield stdout.readline().strip(), tell
        stdin.close()
        assert process.wait(60) == 0


def test_a_killed_node_loses_no_page_and_doubles_none(
    cluster: tuple[str, Tell], scans: Path, built: Path, tmp_path: Path
) -> None:
    """The second node has no models: it gets them, and the engine plan, from the driver."""
    address, tell = cluster
    assert tell("add", "-") == "done"
    assert tell("add", tmp_path / "models") == "done"
    out = tmp_path / "out"
    options = ["--ray", address, "--models", str(built), "--shard-pages", "10"]
    command = [sys.executable, "-m", "serving.cli", "bulk", str(scans), str(out), *options]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True, cwd=ROOT) as run:
        assert run.stderr is not None
        assert eventually(lambda: (tmp_path / "models" / "engines" / "plans").exists())
        assert eventually(lambda: (out / f"part-{PAGES // 20:05}.parquet").exists())
        assert tell("kill", 0) == "done"
        errors = run.stderr.read()
        assert run.wait() == 0, errors
    assert "gets models and engines" in errors
    assert "; read again: " in errors
    rows = parquet.read_table(out).to_pylist()
    assert Counter(row["document"] for row in rows) == Counter(
        f"{scans}#{row}" for row in range(PAGES)
    )
    assert [row["document"] for row in rows if row["error"]] == [f"{scans}#{PAGES - 1}"]
    assert {row["pipeline"].partition("@")[0] for row in rows} == {"PP-OCRv4_mobile"}
