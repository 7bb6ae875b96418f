"""What `build` chose for a pipeline: its device, which `serve` follows also when a GPU has gone,
and by device how many worker processes.

models/engines/plans/<key>.json, the key made of the YAML and the cores alone: which GPU a plan is
for cannot be asked once the GPU is not there, nor before the server has made its workers.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from serving.config.pipeline import PipelineConfig
from serving.devices import check_alike, parse_devices
from serving.engines.cuda import check_gpu
from serving.errors import ConfigError, DeviceError, PlanError
from serving.plan.keys import key
from serving.store.disk import write_whole


def chosen_device(models: Path, config: PipelineConfig, cores: int) -> str | None:
    """What the last build was for: cpu, gpu:0 or gpu:0,1; None where there was none.

    Raises PlanError for a file that cannot be read.
    """
    found = _read(_path(models, config, cores))
    return None if found is None else str(found["device"])


def planned_workers(
    models: Path,
    configs: Iterable[PipelineConfig],
    cores: int,
    device: str | None = None,
    *,
    cpu_fallback: bool = False,
) -> int:
    """Worker processes for a server of these pipelines: as few as were best for one of them.

    Every worker serves them all, and they were found to fit in memory alone. 1 where nothing was
    built. device: default what was built. cpu_fallback: the CPU's number where that is a GPU which
    cannot be used. Raises PlanError for a file that cannot be read.
    """
    numbers = []
    for config in configs:
        found = _read(_path(models, config, cores))
        if found is not None:
            place = device or found["device"]
            if cpu_fallback and not _is_usable(place):
                place = "cpu"
            numbers.append(found["workers"].get(place, 1))
    return min(numbers, default=1)


def _is_usable(device: str) -> bool:
    try:
        check_alike(parse_devices(device))
    except DeviceError:
        return False
    return True


def choose_device(models: Path, config: PipelineConfig, cores: int) -> str:
    """What to build for where nobody says: a GPU where one can be used, else the CPU.

    Raises DeviceError where the last build chose a GPU, and it has gone: the CPU is never silent.
    """
    try:
        check_gpu("gpu:0")
    except DeviceError as error:
        before = chosen_device(models, config, cores)
        if before is not None and before != "cpu":
            raise DeviceError(
                f"{config.source} was last built for {before}, which cannot be used: {error}; to "
                "build for the processor: --device cpu"
            ) from error
        return "cpu"
    return "gpu:0"


def record_choice(
    models: Path, config: PipelineConfig, cores: int, device: str, workers: int
) -> None:
    """Keep the choice, all at once, and the number of worker processes on other devices."""
    path = _path(models, config, cores)
    before = _read(path)
    told = {
        "pipeline": config.source,
        "cores": cores,
        "device": device,
        "workers": {**(before["workers"] if before else {}), device: workers},
    }
    if told != before:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_whole(path, json.dumps(told, indent=1) + "\n")


def _read(path: Path) -> dict[str, Any] | None:
    """What was recorded; None where nothing was. Raises PlanError."""
    try:
        found: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        parse_devices(found["device"])
        workers = found.get("workers", {})  # which older files do not have
        return {**found, "workers": {name: int(number) for name, number in workers.items()}}
    except FileNotFoundError:
        return None
    except (OSError, ValueError, KeyError, TypeError, AttributeError, ConfigError) as error:
        raise PlanError(
            f"{path}: cannot be read ({error}); delete it and run: bash scripts/build_engines.sh"
        ) from error


def _path(models: Path, config: PipelineConfig, cores: int) -> Path:
    words = {"pipeline": config.model_dump(mode="json"), "cores": cores}
    return models / "engines" / "plans" / f"{key(words)}.json"
