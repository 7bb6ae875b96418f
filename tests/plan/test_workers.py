"""Worker processes: which numbers are measured, how one is chosen, real children that read."""

from __future__ import annotations

import dataclasses
import itertools
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import numpy as np
import pytest
from gpu_fakes import L4, show_gpus
from http_server import eventually

from serving import machine
from serving.child import ChildProcess
from serving.config import PipelineConfig, load_config
from serving.engines.base import EngineSpec
from serving.errors import EngineError
from serving.http.registry import warmup_image
from serving.plan.load import open_pipeline
from serving.plan.plan import Plan, find_plan
from serving.plan.workers import (
    GPU,
    MAIN,
    MIB,
    Memory,
    WorkerGroup,
    WorkerSpec,
    free_memory,
    measure_workers,
    with_workers,
    worker_counts,
)

YAML = "configs/PP-OCRv4_mobile.yaml"
PLENTY = {MAIN: 64 * 1024 * MIB, GPU: 64 * 1024 * MIB}


@pytest.fixture
def config(repo: Path) -> PipelineConfig:
    return load_config(repo / YAML)


@pytest.fixture
def plan(config: PipelineConfig, built: Path) -> Plan:
    return find_plan(config, built)


@pytest.mark.parametrize(
    ("cores", "device", "counts"),
    [
        (1, "cpu", [1]),
        (2, "cpu", [1]),
        (7, "cpu", [1]),
        (8, "cpu", [1, 2]),
        (12, "cpu", [1, 2]),
        (64, "cpu", [1, 2, 4, 8, 16]),
        (1, "gpu:0", [1]),
        (2, "gpu:1", [1, 2]),
        (3, "gpu:0", [1, 2]),
        (16, "gpu:0", [1, 2, 4]),
    ],
)
def test_numbers_to_measure(cores: int, device: str, counts: list[int]) -> None:
    assert worker_counts(cores, device) == counts


def test_each_worker_has_its_share_of_threads_and_streams() -> None:
    spec = EngineSpec("openvino", streams=8, threads=16)
    assert spec.shared(1) == spec
    assert spec.shared(4) == dataclasses.replace(spec, streams=2, threads=4)
    assert spec.shared(64) == dataclasses.replace(spec, streams=1, threads=1)
    gpu = EngineSpec("onnxruntime", streams=2, threads=8, device="gpu:0")
    assert gpu.shared(4) == dataclasses.replace(gpu, threads=2)


class FakeGroup(WorkerGroup):
    """Measures, again and again, what `figures` says: (milliseconds a page, latency)."""

    def __init__(
        self, workers: int, figures: Iterator[tuple[float, float]], memory: Memory
    ) -> None:
        self.workers, self.page_times, self.latencies = workers, [], []
        self._figures, self._memory, self.closed = figures, memory, False

    def measure(self) -> float:
        assert not self.closed
        page_time, latency = next(self._figures)
        if not page_time:
            raise EngineError("worker 2 of 4 ended with code -9: killed")
        self.page_times.append(page_time)
        self.latencies.append(latency)
        return page_time

    @property
    def memory(self) -> Memory:
        return self._memory

    def close(self) -> None:
        self.closed = True


@pytest.fixture(autouse=True)
def no_least_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("serving.plan.timing._MIN_SECONDS", 0)


def choose(
    figures: dict[int, list[tuple[float, float]]], free: Memory = PLENTY, each: Memory | None = None
) -> tuple[int, list[str]]:
    """The number that is chosen, and the reasons in order."""
    groups: list[FakeGroup] = []

    def launch(count: int) -> WorkerGroup:
        groups.append(FakeGroup(count, itertools.cycle(figures[count]), each or {MAIN: 500 * MIB}))
        assert sum(not group.closed for group in groups) <= 2  # no more are in memory at a time
        return groups[-1]

    trials = measure_workers(list(figures), launch, lambda: free, lambda _: None)
    assert all(group.closed for group in groups)
    [chosen] = [trial.workers for trial in trials if trial.chosen]
    return chosen, [trial.reason for trial in trials]


def test_more_processes_must_be_faster() -> None:
    one = [(100.0, 50.0)]
    assert choose({1: one, 2: [(94, 50)]}) == (2, ["slower than 2", ""])
    assert choose({1: one, 2: [(96, 50)]}) == (1, ["", "not 5% faster than 1"])
    assert choose({1: one, 2: [(180, 50), (90, 50)]})[0] == 2  # a single noisy figure
    four = {1: one, 2: [(96, 50)], 4: [(60, 55)]}
    assert choose(four) == (4, ["slower than 4", "not 5% faster than 1", ""])
    assert choose({1: one, 2: [(80, 50)], 4: [(78, 50)]})[0] == 2


def test_the_latency_of_a_single_request_is_bounded() -> None:
    slow = choose({1: [(100.0, 50.0)], 2: [(60, 61)]})
    assert slow == (1, ["", "a single request takes 1.22 times as long"])
    assert choose({1: [(100.0, 50.0)], 2: [(60, 59)]})[0] == 2


def test_what_does_not_fit_in_memory_twice_is_not_started() -> None:
    figures = {1: [(100.0, 50.0)], 2: [(60.0, 50.0)], 4: [(30.0, 50.0)]}
    free = {MAIN: 3000 * MIB, GPU: 64 * MIB}
    chosen, reasons = choose(figures, free)
    assert chosen == 2
    assert reasons[2] == (
        "a reload takes 4000 MiB of memory for 2 times 4 of them, and 3000 MiB are free"
    )
    chosen, reasons = choose(figures, free, {MAIN: MIB, GPU: 20 * MIB})
    assert chosen == 1
    assert "80 MiB of GPU memory" in reasons[1]


def test_what_fails_is_not_chosen_and_says_why() -> None:
    one = [(100.0, 50.0)]
    chosen, reasons = choose({1: one, 2: [(60.0, 50.0), (0.0, 0.0)], 4: []})
    assert (chosen, reasons) == (1, ["", "worker 2 of 4 ended with code -9: killed"])
    with pytest.raises(EngineError, match="killed"):  # a server would not start either
        choose({1: [(0.0, 0.0)], 2: []})


def test_few_cores_are_not_measured(config: PipelineConfig, plan: Plan, built: Path) -> None:
    alone = dataclasses.replace(plan, cores=2)
    found = with_workers(alone, config, built, "cpu", [warmup_image()], lambda _: None)
    [trial] = found.worker_trials
    assert (found.workers, trial.chosen, trial.pages_per_second) == (1, True, None)
    assert "more processes need 8 cores" in trial.reason


@pytest.fixture
def spec(config: PipelineConfig, plan: Plan, built: Path, tmp_path: Path) -> WorkerSpec:
    np.save(tmp_path / "0.npy", warmup_image())
    return WorkerSpec(config, plan, built, "cpu", [tmp_path / "0.npy"])


@pytest.mark.usefixtures("short_races")
def test_real_workers_read_real_pages_together(
    config: PipelineConfig, plan: Plan, built: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("serving.plan.workers.worker_counts", lambda cores, device: [1, 2])
    monkeypatch.setattr("serving.plan.workers._SECONDS", 0.5)
    messages: list[str] = []
    found = with_workers(plan, config, built, "cpu", [warmup_image()], messages.append)
    assert messages == ["measuring worker processes: 1", "measuring worker processes: 2"]
    assert [trial.workers for trial in found.worker_trials] == [1, 2]
    for trial in found.worker_trials:
        assert trial.pages_per_second is not None
        assert trial.latency_ms is not None
        assert trial.pages_per_second > 0
        assert trial.latency_ms > 0
        assert trial.memory_mb[MAIN] > 50
    [chosen] = [trial for trial in found.worker_trials if trial.chosen]
    assert found.workers == chosen.workers
    assert not any(trial.reason for trial in found.worker_trials if trial.chosen)
    assert Plan.from_dict(dataclasses.asdict(found)) == found


def test_one_plan_serves_any_number_of_workers(plan: Plan, built: Path, repo: Path) -> None:
    texts = []
    config = load_config(repo / YAML)
    for workers in (1, 2, 3):
        pipeline = open_pipeline(
            config, models=built, slot=workers - 1, workers=workers, warm=False
        )
        engines = [part["engine"] for part in pipeline.to_dict().values()]
        assert {engine["threads"] for engine in engines} == {max(1, plan.cores // workers)}
        texts.append([(line.text, line.score) for line in pipeline.read(warmup_image()).lines])
        pipeline.close()
    assert len(texts[0]) >= 3
    assert [text for text, _ in texts[0]] == [text for text, _ in texts[1]]
    assert texts[1] == texts[2]


def test_a_worker_that_cannot_open_says_why(spec: WorkerSpec, tmp_path: Path) -> None:
    with pytest.raises(EngineError, match=r"worker 1 of 1 ended with code 1: .*ModelMissing"):
        WorkerGroup(dataclasses.replace(spec, models=tmp_path), 1)


def test_a_worker_that_does_not_answer_is_killed(spec: WorkerSpec) -> None:
    with pytest.raises(EngineError, match=r"worker 1 of 2 did not answer within 0.05 s"):
        WorkerGroup(spec, 2, timeout=0.05)


SLEEPER = """
import time
from serving.child import ParentConnection
ParentConnection().respond()
time.sleep(600)
"""


def test_a_child_ends_with_its_parent_even_at_work(repo: Path) -> None:
    """The parent is killed -9, while the child works."""
    parent = f"""
import sys, time
from serving.child import ChildProcess
child = ChildProcess("sleeper", [sys.executable, "-c", {SLEEPER!r}])
child.receive()
print(child._process.pid, flush=True)
time.sleep(600)
"""
    with subprocess.Popen(
        [sys.executable, "-c", parent],
        cwd=repo,
        env={**os.environ, "PYTHONPATH": str(repo)},
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdout is not None
        child = Path("/proc") / process.stdout.readline().strip()
        assert child.exists()
        os.kill(process.pid, signal.SIGKILL)
    assert eventually(lambda: not child.exists() or "Z" in (child / "stat").read_text().split()[2])


def test_an_overdue_child_is_killed_and_named() -> None:
    start = time.monotonic()
    child = ChildProcess(
        "the sleeper", [sys.executable, "-c", "import time; time.sleep(600)"], timeout=1
    )
    with closing(child), pytest.raises(EngineError, match="the sleeper did not answer within 1 s"):
        child.request()
    assert time.monotonic() - start < 300


def test_free_memory_is_the_machines_cut_by_the_cgroups(tmp_path: Path) -> None:
    meminfo = tmp_path / "meminfo"
    meminfo.write_text("MemTotal:  9000 kB\nMemAvailable:    4000 kB\n")
    assert machine.free_memory(tmp_path, meminfo) == 4000 * 1024
    (tmp_path / "memory.current").write_text("1000000\n")
    (tmp_path / "memory.stat").write_text("anon 5\ninactive_file 200000\n")
    (tmp_path / "memory.max").write_text("max\n")
    assert machine.free_memory(tmp_path, meminfo) == 4000 * 1024
    assert machine.memory_limit(tmp_path) is None
    (tmp_path / "memory.max").write_text("3000000\n")
    assert machine.free_memory(tmp_path, meminfo) == 2_200_000
    assert machine.memory_limit(tmp_path) == 3_000_000
    old = tmp_path / "old"
    (old / "memory").mkdir(parents=True)
    (old / "memory/memory.limit_in_bytes").write_text("500000\n")
    (old / "memory/memory.usage_in_bytes").write_text("600000\n")
    (old / "memory/memory.stat").write_text("total_inactive_file 150000\n")
    assert machine.free_memory(old, meminfo) == 50_000
    assert machine.free_memory() > 0
    assert machine.peak_memory() > 10 * MIB


def test_limits_of_a_service_are_those_of_its_own_cgroup_and_all_around_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As of systemd's CPUQuota= and MemoryMax=, or of a slice."""
    own = tmp_path / "system.slice/ocr.service"
    own.mkdir(parents=True)
    (tmp_path / "membership").write_text("1:name=x:/other\n0::/system.slice/ocr.service\n")
    monkeypatch.setattr(machine, "_MEMBERSHIP", tmp_path / "membership")
    assert machine.memory_limit(tmp_path) is None
    cores = machine.usable_cores(tmp_path)
    (own / "cpu.max").write_text("max 100000\n")
    (own.parent / "cpu.max").write_text("100000 100000\n")
    (own / "memory.max").write_text("3000000\n")
    (own.parent / "memory.max").write_text("9000000\n")
    (own / "memory.current").write_text("1000000\n")
    (own / "memory.stat").write_text("inactive_file 0\n")
    assert cores > 1 and machine.usable_cores(tmp_path) == 1
    assert machine.memory_limit(tmp_path) == 3_000_000
    assert machine.free_memory(tmp_path) == 2_000_000


def test_a_gpus_free_memory_is_nvmls(monkeypatch: pytest.MonkeyPatch) -> None:
    show_gpus(monkeypatch, L4)
    assert free_memory("gpu:0")[GPU] == 20 << 30
    assert GPU not in free_memory("cpu")
