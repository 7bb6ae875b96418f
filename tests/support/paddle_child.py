"""Runs in the build environment, which has paddle: our engine on Paddle graphs.

Arguments: a work folder, then for each model its kind and folder. Reads the model's images from
`<model>.npz` in the work folder and writes what the engine answers to `<model>-answers.npz`; and
to `refused.txt` what it says of a broken graph.
"""

from __future__ import annotations

import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np

from serving.config.model import load_model
from serving.engines.base import EngineSpec
from serving.engines.factory import open_engine, open_fused
from serving.errors import EngineError
from serving.models.files import paddle_graph

SPEC = EngineSpec("paddle", streams=2, threads=2)


def answer(work: Path, kind: str, folder: Path) -> None:
    """More callers than streams, and every image twice: the same answers both times."""
    engine = open_fused(paddle_graph(folder), SPEC, load_model(folder, folder.name, kind))
    with np.load(work / f"{folder.name}.npz") as file:
        images = dict(file)
    with ThreadPoolExecutor(4) as callers:
        found = list(callers.map(engine.run, [*images.values(), *images.values()]))
    engine.close()
    answers = {}
    for place, name in enumerate(images):
        for number, output in enumerate(found[place]):
            np.testing.assert_array_equal(output, found[place + len(images)][number])
            answers[f"{name}-{number}"] = output
    np.savez(work / f"{folder.name}-answers.npz", **answers)


def refuse(work: Path) -> None:
    """A graph that is none is an EngineError. (A broken .pdmodel crashes Paddle itself.)"""
    for name in ("inference.json", "inference.pdiparams"):
        (work / name).write_text("{}")
    try:
        open_engine(work / "inference.json", SPEC)
    except EngineError as error:
        (work / "refused.txt").write_text(str(error))


if __name__ == "__main__":
    work = Path(sys.argv[1])
    for kind, folder in zip(sys.argv[2::2], sys.argv[3::2], strict=True):
        answer(work, kind, Path(folder))
    refuse(work)
