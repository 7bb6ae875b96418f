"""A recogniser made worse on purpose, as a model folder of its own."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import onnx
from onnx import numpy_helper

from serving.models.conversion import onnx_graph


def worse_recogniser(models: Path, folder: Path, noise: float) -> Path:
    """PP-OCRv4 mobile's with Gaussian noise on its last layer's weights.

    noise: its standard deviation, over that of the weights.
    """
    source = models / "PP-OCRv4_mobile_rec"
    folder.mkdir(parents=True)
    shutil.copy(source / "inference.yml", folder)
    model = onnx.load(onnx_graph(source, models / "engines"))
    last = [node for node in model.graph.node if node.op_type == "MatMul"][-1]
    (weights,) = (node.attribute[0].t for node in model.graph.node if last.input[1] in node.output)
    values = numpy_helper.to_array(weights)
    disturbed = np.random.default_rng(0).normal(values, noise * values.std()).astype(values.dtype)
    weights.CopyFrom(numpy_helper.from_array(disturbed, weights.name))
    onnx.save(model, folder / "inference.onnx")
    return folder
