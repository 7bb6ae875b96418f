"""Running servers as executors, over real sockets; their pipelines have no models."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import requests
from click.testing import CliRunner, Result
from http_fake import HELD, picture
from http_server import Server, eventually
from pyarrow import parquet

from serving.cli import main
from serving.http.keys import new_key


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Ten images, a document of 20 pages and a broken file."""
    folder = tmp_path / "in"
    folder.mkdir()
    for index in range(10):
        (folder / f"{index}.png").write_bytes(picture(40 + index))
    (folder / "book.tif").write_bytes(picture(60, kind="TIFF", pages=20))
    (folder / "broken.png").write_bytes(picture()[:60])
    return folder


def bulk(folder: Path, out: Path, *options: str) -> Result:
    command = ["bulk", str(folder), str(out), "--max-error-rate", "0.1", *options]
    return CliRunner().invoke(main, command)


def rows(out: Path) -> list[dict[str, Any]]:
    return sorted(
        parquet.read_table(out).to_pylist(), key=lambda row: (row["document"], row["page"] or 0)
    )


def test_two_servers_share_the_pages(
    folder: Path, tmp_path: Path, server: Server, start: Callable[..., Server]
) -> None:
    servers = [server, start(threads=2).wait_ready()]
    urls = f"{servers[0].base},{servers[1].base}/ocr/v1/accurate"
    done = bulk(folder, tmp_path / "out", "--server", urls)
    assert done.exit_code == 0, done.output
    read = rows(tmp_path / "out")
    assert [(Path(row["document"]).name, row["page"]) for row in read] == [
        *((f"{index}.png", 0) for index in range(10)),
        *(("book.tif", page) for page in range(20)),
        ("broken.png", 0),
    ]
    assert read[3]["text"] == "accurate 43x20 字"
    assert {row["pages"] for row in read[10:-1]} == {20}
    assert read[3]["pipeline"].startswith("accurate@")
    assert read[3]["lines"][0]["box"] == [[1, 2], [43, 2], [43, 20], [1, 20]]
    assert read[-1]["error"]["code"] == "undecodable"
    for server in servers:
        assert 'outcome="ok"' in metrics(server) or "ocr_pages_total" in metrics(server)


def metrics(server: Server) -> str:
    return requests.get(f"{server.base}/metrics", timeout=10).text


def test_a_busy_server_is_waited_for(
    folder: Path, tmp_path: Path, start: Callable[..., Server]
) -> None:
    """Somebody else's page holds its only place until the gate opens: every page gets a 429."""
    server = start(threads=1, queue=0).wait_ready()
    held = server.hold_in_work()
    done: list[Result] = []
    run = threading.Thread(
        target=lambda: done.append(bulk(folder, tmp_path / "out", "--server", server.base))
    )
    run.start()
    assert eventually(lambda: 'code="429"' in metrics(server))
    server.gate.touch()
    run.join()
    held.close()
    assert done[0].exit_code == 0, done[0].output
    assert len(rows(tmp_path / "out")) == 31


def test_a_server_that_ends_leaves_its_pages_to_the_others(
    folder: Path, tmp_path: Path, start: Callable[..., Server]
) -> None:
    first, second = (start(threads=1).wait_ready() for _ in range(2))
    for image in folder.glob("?.png"):  # the first of them goes to the first server
        image.write_bytes(picture(colour=HELD))
    second.gate.touch()

    def end() -> None:
        assert eventually(first.gate.with_suffix(".reached").exists)
        for pid in (first.process.pid, *first.workers()):
            os.kill(pid, signal.SIGKILL)

    killer = threading.Thread(target=end)
    killer.start()
    done = bulk(folder, tmp_path / "out", "--server", f"{first.base},{second.base}")
    killer.join()
    assert done.exit_code == 0, done.output
    assert len(rows(tmp_path / "out")) == 31


def test_what_a_server_refuses_ends_the_run(
    folder: Path, tmp_path: Path, start: Callable[..., Server]
) -> None:
    key, line = new_key("bulk")
    keys = tmp_path / "keys"
    keys.write_text(line + "\n")
    server = start(api_keys_file=str(keys)).wait_ready()
    out = tmp_path / "out"
    done = bulk(folder, out, "--server", server.base)
    assert (done.exit_code, "401" in done.output) == (1, True)
    done = bulk(folder, out, "--server", f"{server.base}/ocr/v1/other", "--api-key", key)
    assert (done.exit_code, "has no other; it has accurate" in done.output) == (1, True)
    assert bulk(folder, out, "--server", server.base, "--api-key", key).exit_code == 0
