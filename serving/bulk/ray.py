"""A Ray cluster: on every node as many actors as its engine plan found best for a server.

Plain actors and not Ray Data: how many ranges of pages a document has is known only once it has
been opened, and a run must commit shards that a later driver can build on. What Ray Data would do
is in `run.py` for all executors: backpressure (an actor gets a page when it has a free place) and
retries (what was on a lost node is read again). Actors that end are made anew here, not by Ray: the
loop must know which items were lost with them.

A node without an engine plan gets models and engines from the driver; where its kind of machine has
none there either, one node of that kind builds it, and the others get it from that one.
"""

from __future__ import annotations

import io
import json
import logging
import math
import os
import socket
import subprocess
import sys
import tarfile
import tempfile
import threading
import time
from collections.abc import Mapping
from concurrent.futures import Future
from contextlib import suppress
from dataclasses import dataclass, field, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

from serving.bulk.inputs import NAME, Item, require
from serving.bulk.read import Reader, ReadSettings, Row
from serving.devices import kind
from serving.errors import ConfigError, EngineError, ModelError, OcrError, PlanError, WorkerLost
from serving.machine import share
from serving.models.pipeline_models import pipeline_models
from serving.plan.load import check_plan
from serving.plan.plan import find_plan, key, machine, read_deployment

_LOG = logging.getLogger(__name__)

_AHEAD = 2
"""Items that wait in an actor, so that no core waits for the driver."""
_PERIOD = 2.0
"""Seconds between two looks at the cluster's nodes."""
_MAX_FAILURES = 3
_DOCUMENTS_A_CORE = 100
"""The autoscaler is asked for a core for so many: with fewer, a new node would come too late."""


@dataclass(frozen=True, slots=True)
class _Probe:
    """What a node can do."""

    kind: str
    """Equal for nodes that can share an engine plan."""
    gpu: bool
    workers: int
    """Actors, for each GPU where it has some; 0 where there is no plan."""
    problem: str


class _Actor:
    """A pipeline on a node."""

    def __init__(self, reading: ReadSettings, cores: int, slot: int, workers: int) -> None:
        self._reader_of = replace(reading, models=_models(reading)), cores, slot, workers
        self._reader: Reader | None = None

    def open(self) -> None:
        """Raises what `Reader` raises."""
        self._reader = Reader(*self._reader_of)

    def read(self, item: Item) -> list[Row]:
        """See `Reader.read`."""
        assert self._reader is not None
        return self._reader.read(item)


@dataclass(eq=False, slots=True)
class _Handle:
    """An actor as the driver knows it."""

    slot: int
    callers: int
    actor: Any
    opened: Future[None]
    busy: int = 0
    lost: bool = False

    @property
    def ready(self) -> bool:
        return not self.lost and self.opened.done() and self.opened.exception() is None


@dataclass(eq=False, slots=True)
class _Node:
    """A node as the driver knows it."""

    id: str
    cores: int
    gpus: int
    probe: Future[_Probe]
    provision: Future[bytes] | None = None
    """While, and once, it gets models and engines."""
    handles: list[_Handle] = field(default_factory=list)
    failures: int = 0
    """Actors that ended before they had opened their pipeline."""
    problem: str = ""
    """Why it is not used."""


class RayExecutor:
    """Actors on every node of a cluster, as nodes come and go.

    documents: of the run; the autoscaler is asked for as many cores as they can use. Raises
    ConfigError where there is no cluster at that address.
    """

    def __init__(self, reading: ReadSettings, address: str, documents: int) -> None:
        require("ray", "ray")
        os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # it would report to its makers
        import ray

        self._ray: Any = ray
        self._task_error = ray.exceptions.RayTaskError
        self._reading = replace(reading, models=reading.models.absolute())
        self.settings: Mapping[str, Any] = reading.settings()
        try:
            if address != "auto":  # Ray itself takes minutes to find that nobody listens
                host, _, port = address.rpartition(":")
                socket.create_connection((host, int(port)), timeout=5).close()
            ray.init(address, log_to_driver=False, logging_level=logging.ERROR)
        except (OSError, RuntimeError, ValueError) as error:
            raise ConfigError(f"--ray: no cluster at {address}: {error}") from error
        self._request(math.ceil(documents / _DOCUMENTS_A_CORE))
        self._lock = threading.Lock()
        self._nodes: dict[str, _Node] = {}
        self._engines: dict[str, Future[bytes]] = {}
        """By kind of node: models and engines, from the first node that had to build them."""
        self._looked = -math.inf
        self._waiting = False

    @property
    def slots(self) -> int:
        """See `Executor`. Raises EngineError where no node can be used."""
        if time.monotonic() - self._looked > _PERIOD:
            self._looked = time.monotonic()
            self._look()
        return sum(handle.callers + _AHEAD for handle in self._handles())

    def submit(self, item: Item) -> Future[list[Row]]:
        """See `Executor`."""
        result: Future[list[Row]] = Future()
        handles = self._handles()
        if not handles:
            result.set_exception(WorkerLost("the last actor has ended"))
            return result
        if item.document.cell is not None and item.data is None:
            # Else every actor would read every row group. An error is the actor's to report.
            with suppress(OcrError):
                item = replace(item, data=item.document.read())
        with self._lock:
            handle = min(handles, key=lambda each: each.busy / each.callers)
            handle.busy += 1

        def done(future: Future[list[Row]]) -> None:
            with self._lock:
                handle.busy -= 1
            error = future.exception()
            if error is None:
                result.set_result(future.result())
            elif isinstance(error, self._task_error):
                result.set_exception(EngineError(f"{type(error.cause).__name__}: {error.cause}"))
            else:
                handle.lost = True
                result.set_exception(WorkerLost(_first_line(error)))

        handle.actor.read.remote(item).future().add_done_callback(done)
        return result

    def close(self) -> None:
        """End the actors, busy ones too, and leave the cluster."""
        self._request(0)
        self._ray.shutdown()

    def _request(self, cores: int) -> None:
        """Ask the cluster's autoscaler, where it has one, for so many cores or GPUs."""
        from ray.autoscaler.sdk import request_resources

        if kind(self._reading.device or "cpu") == "gpu":
            request_resources(bundles=[{"GPU": 1}] * math.ceil(cores / 16))
        else:
            request_resources(num_cpus=cores)

    def _handles(self) -> list[_Handle]:
        return [handle for node in self._nodes.values() for handle in node.handles if handle.ready]

    def _look(self) -> None:
        """Take in new nodes, forget dead ones, and replace actors that were lost."""
        alive = {each["NodeID"]: each["Resources"] for each in self._ray.nodes() if each["Alive"]}
        for gone in self._nodes.keys() - alive.keys():
            _LOG.warning("node %s has left", gone[:8])
            del self._nodes[gone]
        for node_id, has in alive.items():
            cores, gpus = int(has.get("CPU", 0)), int(has.get("GPU", 0))
            if node_id not in self._nodes and cores:
                probe = self._probed(node_id, cores, gpus)
                self._nodes[node_id] = _Node(node_id, cores, gpus, probe)
        for node in self._nodes.values():
            if not node.problem:
                try:
                    self._advance(node)
                except (OcrError, self._ray.exceptions.RayError) as error:
                    node.problem = _first_line(getattr(error, "cause", None) or error)
                    _LOG.warning("node %s is not used: %s", node.id[:8], node.problem)
        if not self._nodes and not self._waiting:
            self._waiting = True
            _LOG.warning("the cluster has no node with cores: waiting for one")
        problems = [node.problem for node in self._nodes.values()]
        if problems and all(problems):
            raise EngineError(f"no node of the cluster can be used: {problems[0]}")

    def _advance(self, node: _Node) -> None:
        """The next step towards actors on a node, where the last one is done."""
        if not node.probe.done():
            return
        probe = node.probe.result()
        if not probe.workers:
            self._provision(node, probe)
            return
        if probe.gpu and not node.gpus:
            raise EngineError(
                "its plan is for a GPU, and Ray knows none there: start Ray there with --num-gpus, "
                "or give --device cpu here"
            )
        actors = probe.workers * (node.gpus if probe.gpu else 1)
        for handle in node.handles:
            if handle.opened.done() and (error := handle.opened.exception()):
                node.failures += 1
                if node.failures > _MAX_FAILURES or isinstance(error, self._task_error):
                    raise error
                handle.lost = True
        node.handles = [handle for handle in node.handles if not handle.lost]
        for slot in range(actors):
            if all(handle.slot != slot for handle in node.handles):
                node.handles.append(self._start(node, probe, slot, actors))

    def _provision(self, node: _Node, probe: _Probe) -> None:
        """Give models and engines to a node that has no plan; then it is probed again."""
        engines = self._engines.get(probe.kind)
        if engines is not None and engines.done() and engines.exception():
            engines = None  # that node has ended, or has a problem of its own
        if node.provision is None and (engines is None or engines.done()):
            _LOG.warning("node %s gets models and engines: %s", node.id[:8], probe.problem)
            content = _pack(self._reading) if engines is None else engines.result()
            node.provision = self._run(
                _provisioned, node.id, node.gpus, self._reading, node.cores, content
            )
            if engines is None:
                self._engines[probe.kind] = node.provision
        elif node.provision is not None and node.provision.done():
            node.provision.result()
            node.probe = self._probed(node.id, node.cores, node.gpus)
            node.provision = None

    def _start(self, node: _Node, probe: _Probe, slot: int, actors: int) -> _Handle:
        callers = share(node.cores, actors)
        actor = (
            self._ray.remote(_Actor)
            .options(
                num_cpus=node.cores / actors,
                num_gpus=1 / probe.workers if probe.gpu else 0,
                max_concurrency=callers,
                scheduling_strategy=self._on(node.id),
            )
            .remote(self._reading, node.cores, slot % probe.workers, probe.workers)
        )
        return _Handle(slot, callers, actor, actor.open.remote().future())

    def _probed(self, node_id: str, cores: int, gpus: int) -> Future[_Probe]:
        return self._run(_probe, node_id, gpus, self._reading, cores, version(NAME))

    def _run(self, function: Any, node_id: str, gpus: int, *arguments: Any) -> Future[Any]:
        """Call a function on a node."""
        # Without a share of a GPU, Ray hides them all.
        options = {"num_cpus": 0, "num_gpus": 0.01 if gpus else 0, "max_retries": 0}
        task = self._ray.remote(function).options(scheduling_strategy=self._on(node_id), **options)
        future: Future[Any] = task.remote(*arguments).future()
        return future

    def _on(self, node_id: str) -> Any:
        from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

        return NodeAffinitySchedulingStrategy(node_id, soft=False)


def _first_line(error: BaseException) -> str:
    return str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__


def _models(reading: ReadSettings) -> Path:
    """The folder of models on this node: its own setting, or that of the driver."""
    return Path(os.environ.get("OCR_HPI_MODELS") or reading.models)


def _probe(reading: ReadSettings, cores: int, driver: str) -> _Probe:
    """On a node: whether it has a plan. Raises ConfigError where it runs another version."""
    if version(NAME) != driver:
        raise ConfigError(f"it has {NAME} {version(NAME)}, and the driver {driver}: install that")
    models = _models(reading)
    device = reading.device or read_deployment(models, reading.config, cores).device
    same = key({"machine": machine(device), "cores": cores})
    try:
        check_plan(reading.config, models, cores, reading.device)
    except (ModelError, PlanError) as error:
        return _Probe(same, kind(device) == "gpu", 0, str(error))
    plan = find_plan(reading.config, models, cores, reading.device)
    return _Probe(same, kind(device) == "gpu", plan.workers, "")


def _pack(reading: ReadSettings) -> bytes:
    """The pipeline's models and all engines as a tar archive. Raises ModelError."""
    folders = {part.folder for part in pipeline_models(reading.config, reading.models)}
    content = io.BytesIO()
    with tarfile.open(fileobj=content, mode="w") as tar:
        for folder in (*sorted(folders), reading.models / "engines"):
            if folder.is_relative_to(reading.models) and folder.is_dir():
                tar.add(folder.resolve(), str(folder.relative_to(reading.models)))
    return content.getvalue()


def _provisioned(reading: ReadSettings, cores: int, content: bytes) -> bytes:
    """On a node: unpack models and engines, build where there is still no plan, and pack them.

    Raises ModelError and PlanError.
    """
    reading = replace(reading, models=_models(reading))
    reading.models.mkdir(parents=True, exist_ok=True)
    with tarfile.open(fileobj=io.BytesIO(content)) as tar:
        tar.extractall(reading.models, filter="data")
    try:
        check_plan(reading.config, reading.models, cores, reading.device)
    except PlanError:
        _build(reading, cores)
        check_plan(reading.config, reading.models, cores, reading.device)
    return _pack(reading)


def _build(reading: ReadSettings, cores: int) -> None:
    with tempfile.TemporaryDirectory() as folder:
        yaml = Path(folder) / Path(reading.config.source).name
        yaml.write_text(json.dumps(reading.to_dict()["config"]), encoding="utf-8")  # JSON is YAML
        options = ["--models", str(reading.models), "--threads", str(cores)]
        if reading.device:
            options += ["--device", reading.device]
        command = [sys.executable, "-P", "-m", "serving.cli", "build", *options, str(yaml)]
        done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        last = (done.stderr.strip().splitlines() or ["no reason given"])[-1]
        raise PlanError(f"the build failed: {last}")
