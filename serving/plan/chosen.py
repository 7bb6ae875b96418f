"""The device that `build` chose for a pipeline: `serve` follows it, also when a GPU has gone.

models/engines/plans/<key>.json, the key made of the YAML and the cores alone: which GPU a plan is
for cannot be asked once the GPU is not there.
"""

from __future__ import annotations

import json
from pathlib import Path

from serving.config.pipeline import PipelineConfig
from serving.devices import parse_devices
from serving.engines.cuda import check_gpu
from serving.errors import ConfigError, DeviceError, PlanError
from serving.plan.keys import key
from serving.store.disk import write_whole


def chosen_device(models: Path, config: PipelineConfig, cores: int) -> str | None:
    """What the last build was for: cpu, gpu:0 or gpu:0,1; None where there was none.

    Raises PlanError for a file that cannot be read.
    """
    path = _path(models, config, cores)
    try:
        device = json.loads(path.read_text(encoding="utf-8"))["device"]
        parse_devices(device)
    except FileNotFoundError:
        return None
    except (OSError, ValueError, KeyError, TypeError, ConfigError) as error:
        raise PlanError(
            f"{path}: cannot be read ({error}); delete it and run: bash scripts/build_engines.sh"
        ) from error
    return str(device)


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


def record_device(models: Path, config: PipelineConfig, cores: int, device: str) -> None:
    """Keep the choice, all at once."""
    path = _path(models, config, cores)
    text = json.dumps({"pipeline": config.source, "cores": cores, "device": device}, indent=1)
    if not path.is_file() or path.read_text(encoding="utf-8") != text + "\n":
        path.parent.mkdir(parents=True, exist_ok=True)
        write_whole(path, text + "\n")


def _path(models: Path, config: PipelineConfig, cores: int) -> Path:
    words = {"pipeline": config.model_dump(mode="json"), "cores": cores}
    return models / "engines" / "plans" / f"{key(words)}.json"
