"""`ocr-hpi bulk`, its rate and its faults; docs/scaling.md has the figures.

`python -m benchmarks.bulk rate` compares its rate with that of a loaded pipeline in this process,
in turn. `python -m benchmarks.bulk faults` reads 2,000 small pages on a Ray cluster of two node
processes on this machine, 1 % of them broken: one node is killed halfway; then, in another run,
the driver is killed at a third and the same command is started again. Each page must be there once.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import subprocess
import sys
import tempfile
import time
from argparse import RawTextHelpFormatter
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from functools import partial
from pathlib import Path
from statistics import median

from PIL import Image

from benchmarks import corpus
from benchmarks.ray_cluster import ray_cluster
from serving import load_pipeline
from serving.bulk.inputs import Listing
from serving.bulk.local import LocalExecutor
from serving.bulk.read import ReadSettings
from serving.bulk.run import run
from serving.bulk.shards import open_output
from serving.config import load_config
from serving.machine import cpu_name, usable_cores

_YAML = "configs/PP-OCRv4_mobile.yaml"
_ROUNDS = 8
_PAGES = 16
"""Of a round."""
_FAULT_PAGES = 2000
_BROKEN = 100
"""Of so many small pages one is broken."""


def rate(folder: Path) -> None:
    """Seconds and processor seconds of both, in turn."""
    scans = folder / "in"
    scans.mkdir()
    for page in corpus.pages(seed=5, count=_PAGES):
        Image.fromarray(page.image[..., ::-1]).save(scans / f"{page.name}.png")
    files = sorted(scans.iterdir())
    listing = Listing()
    listing.add_input(str(scans))
    reading = ReadSettings(load_config(_YAML), Path("models"))
    numbers = itertools.count()
    with load_pipeline(_YAML) as pipeline, closing(LocalExecutor(reading)) as executor:

        def bulk() -> None:
            with open_output(folder / f"out{next(numbers)}", "parquet", {}, 1000) as output:
                run(
                    listing.documents,
                    output,
                    executor,
                    max_error_rate=0,
                    on_progress=lambda _: None,
                )

        def read(callers: int) -> None:
            with ThreadPoolExecutor(callers) as pool:
                list(pool.map(lambda file: list(pipeline.predict(file)), files))

        ways: dict[str, Callable[[], None]] = {
            "bulk": bulk,
            "load_pipeline": partial(read, usable_cores()),
        }
        found: dict[str, list[tuple[float, float]]] = {name: [] for name in ways}
        for round_ in range(_ROUNDS + 1):
            for name, way in ways.items():
                start, busy = time.perf_counter(), _processor_seconds()
                way()
                if round_:  # the first one warms up
                    spent = time.perf_counter() - start, _processor_seconds() - busy
                    found[name].append(spent)
    ratios = [
        [other[kind] / own[kind] for own, other in zip(*found.values(), strict=True)]
        for kind in (0, 1)
    ]
    report = {
        "processor": cpu_name(),
        "best pages/s": {
            name: round(len(files) / min(seconds for seconds, _ in spent), 2)
            for name, spent in found.items()
        },
        "bulk's rate over load_pipeline's, median of rounds": round(median(ratios[0]), 3),
        "processor seconds a page": {
            name: round(median(busy for _, busy in spent) / len(files), 4)
            for name, spent in found.items()
        },
        "the same by processor seconds": round(median(ratios[1]), 3),
        "seconds and processor seconds of the rounds": found,
    }
    print(json.dumps(report, indent=1))


def _processor_seconds() -> float:
    """Of this process and all its descendants; other load on the machine adds little to it."""
    total, waiting = 0, [os.getpid()]
    while waiting:
        pid = waiting.pop()
        stat = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        total += int(stat[11]) + int(stat[12])
        for task in Path(f"/proc/{pid}/task").iterdir():
            waiting += map(int, (task / "children").read_text().split())
    return total / os.sysconf("SC_CLK_TCK")


def faults(folder: Path) -> None:
    """Both runs; raises AssertionError where a page is lost or there twice."""
    scans = folder / "in"
    scans.mkdir()
    lines = [line.image[..., ::-1] for line in corpus.lines(seed=17, count=50)]
    for index in range(_FAULT_PAGES):
        path = scans / f"{index:04}.png"
        Image.fromarray(lines[index % len(lines)]).save(path)
        if index % _BROKEN == 0:
            path.write_bytes(path.read_bytes()[:60])
    known = Counter(str(path) for path in scans.iterdir())
    for name, kills in (
        ("node killed halfway", "node"),
        ("driver killed at a third", "driver"),
    ):
        out = folder / kills
        with ray_cluster() as (address, send):
            send("add", "-")
            send("add", "-")
            options = ["--ray", address, "--format", "jsonl", "--shard-pages", "50"]
            command = [sys.executable, "-m", "serving.cli", "bulk", str(scans), str(out), *options]
            start = time.perf_counter()
            driver = subprocess.Popen(command)
            _wait(out, _FAULT_PAGES // (2 if kills == "node" else 3), driver)
            if kills == "node":
                send("kill", 0)
            else:
                driver.kill()
                driver.wait()
                print(f"{kills} killed: {sum(_read(out).values())} pages committed", flush=True)
                driver = subprocess.Popen(command)
            assert driver.wait() == 0
            seconds = time.perf_counter() - start
        assert _read(out) == known, "a page is lost, or there twice"
        errors = sum('"code"' in line for line in _lines(out))
        assert errors == _FAULT_PAGES // _BROKEN
        print(
            f"{name}: {len(known)} pages once each, {errors} with errors, {seconds:.0f} s",
            flush=True,
        )


def _wait(out: Path, pages: int, driver: subprocess.Popen[bytes]) -> None:
    while sum(1 for _ in _lines(out)) < pages:
        assert driver.poll() is None, "the run has ended before"
        time.sleep(0.5)


def _lines(out: Path) -> Iterator[str]:
    for path in sorted(out.glob("part-*.jsonl")):
        yield from path.read_text(encoding="utf-8").splitlines()


def _read(out: Path) -> Counter[str]:
    return Counter(json.loads(line)["document"] for line in _lines(out))


if __name__ == "__main__":
    measured = {"rate": rate, "faults": faults}
    parser = argparse.ArgumentParser(
        "python -m benchmarks.bulk", description=__doc__, formatter_class=RawTextHelpFormatter
    )
    parser.add_argument("what", choices=measured)
    chosen = parser.parse_args().what
    with tempfile.TemporaryDirectory() as scratch:
        measured[chosen](Path(scratch))
