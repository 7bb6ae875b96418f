"""What engines are held against: the multiply-adds that a model needs, and a matrix product."""

from __future__ import annotations

import itertools
import math
import tempfile
import time
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from serving.engines.base import EngineSpec
from serving.engines.factory import open_engine
from serving.ocr.scheduler import Scheduler

_COUNTED = ("Conv", "ConvTranspose", "MatMul", "Gemm")
BACKENDS = "openvino", "onnxruntime"
PRECISIONS = "float32", "bfloat16", "float16", "int8"
"""What the matrix product runs on."""
_SIDE, _CHAIN = 512, 16
"""Sixteen products of 512 x 512 matrices in sequence: 2.1 GMAC a call. Larger matrices fall out of
the cache and run at half this rate or less in bfloat16."""


class MacCounter:
    """Multiply-adds of the convolutions and matrix products of a graph, by the size of its input.

    Takes the model's own graph, (N, 3, H, W): what an optimised graph multiplies by zero is no
    useful work. Runs the graph once for each size in ONNX Runtime, with the shapes of operands as
    outputs, because shape inference gives up on the graphs that paddle2onnx makes.
    """

    def __init__(self, graph: Path) -> None:
        import onnx
        import onnxruntime

        model = onnx.load(graph)
        del model.graph.output[:]
        self._nodes: list[Any] = [n for n in model.graph.node if n.op_type in _COUNTED]
        operands = [name for node in self._nodes for name in (*node.input[:2], node.output[0])]
        self._names = list(dict.fromkeys(operands))
        for index, name in enumerate(self._names):
            model.graph.node.append(onnx.helper.make_node("Shape", [name], [f"shape {index}"]))
            model.graph.output.append(
                onnx.helper.make_tensor_value_info(f"shape {index}", onnx.TensorProto.INT64, [None])
            )
        options = onnxruntime.SessionOptions()
        options.log_severity_level = 3
        self._session = onnxruntime.InferenceSession(
            model.SerializeToString(), options, providers=["CPUExecutionProvider"]
        )
        self.macs = cache(self._macs)

    def _macs(self, height: int, width: int) -> int:
        """For one image of this size."""
        feed = self._session.get_inputs()[0]
        image = np.ones((1, 3, height, width), np.float32)
        outputs = self._session.run(None, {feed.name: image})
        shapes = dict(zip(self._names, (shape.tolist() for shape in outputs), strict=True))
        return sum(_node_macs(node, shapes) for node in self._nodes)

    def macs_at_width(self, height: int, width: int, *, step: int = 64) -> float:
        """As `macs`, interpolated between multiples of `step`: one run serves many widths."""
        low = max(step, width // step * step)
        here, there = self.macs(height, low), self.macs(height, low + step)
        return here + (there - here) * (width - low) / step


def _node_macs(node: Any, shapes: dict[str, Sequence[int]]) -> int:
    first, second, out = (shapes[name] for name in (*node.input[:2], node.output[0]))
    if node.op_type == "Conv":  # (out, in / groups, height, width)
        return math.prod(out) * math.prod(second[1:])
    if node.op_type == "ConvTranspose":  # (in, out / groups, height, width)
        return math.prod(first) * math.prod(second[1:])
    transposed = any(item.name == "transA" and item.i for item in node.attribute)
    return math.prod(out) * first[-2 if transposed else -1]


class MatrixProduct:
    """A chain of matrix products on the settings of a stage's engine, with as many callers."""

    def __init__(self, spec: EngineSpec, callers: int) -> None:
        with tempfile.TemporaryDirectory() as folder:
            graph = Path(folder) / "product.onnx"
            _write_chain(graph, int8=spec.precision == "int8")
            self._engine = open_engine(graph, spec)
        self._pool = Scheduler(callers, name="product")
        generator = np.random.default_rng(0)
        self._matrix = generator.standard_normal((_SIDE, _SIDE)).astype(np.float32)
        self._seconds: list[float] = []
        self.sample()
        self._seconds.clear()  # the first calls warmed it up

    def sample(self, calls: int = 3) -> None:
        """Time some calls, on all callers at the same time."""

        def work() -> None:
            for _ in range(calls):
                start = time.perf_counter()
                self._engine.run(self._matrix)
                self._seconds.append(time.perf_counter() - start)

        self._pool.run_on_every_thread(work)

    @property
    def rate(self) -> float:
        """Multiply-adds a second of one caller: the median of the calls."""
        return _CHAIN * _SIDE**3 / float(np.median(self._seconds))

    def close(self) -> None:
        """Free the engine and the threads."""
        self._pool.close()
        self._engine.close()


def _write_chain(path: Path, *, int8: bool) -> None:
    import onnx

    node, stored = onnx.helper.make_node, onnx.numpy_helper.from_array
    generator = np.random.default_rng(1)
    # Scaled so that the numbers keep their magnitude from product to product.
    weights = generator.standard_normal((_SIDE, _SIDE)) / math.sqrt(_SIDE)
    names = ["matrix", *(f"product {index}" for index in range(_CHAIN))]
    values = [stored(weights.astype(np.float32), "weights")]
    nodes = []
    if int8:
        scale = float(np.abs(weights).max()) / 127
        values = [
            stored(np.rint(weights / scale).astype(np.int8), "weights 8"),
            stored(np.array(scale, np.float32), "weights scale"),
            stored(np.array(8 / 255, np.float32), "scale"),  # four standard deviations either way
            stored(np.array(128, np.uint8), "zero"),
        ]
        nodes = [node("DequantizeLinear", ["weights 8", "weights scale"], ["weights"])]
    for name, product in itertools.pairwise(names):
        if int8:
            nodes += [
                node("QuantizeLinear", [name, "scale", "zero"], [f"{name} 8"]),
                node("DequantizeLinear", [f"{name} 8", "scale", "zero"], [f"{name} rounded"]),
            ]
        nodes.append(node("MatMul", [f"{name} rounded" if int8 else name, "weights"], [product]))
    float32, shape = onnx.TensorProto.FLOAT, [_SIDE, _SIDE]
    graph = onnx.helper.make_graph(
        nodes,
        "product",
        [onnx.helper.make_tensor_value_info(names[0], float32, shape)],
        [onnx.helper.make_tensor_value_info(names[-1], float32, shape)],
        values,
    )
    opset = onnx.helper.make_opsetid("", 17)
    onnx.save(onnx.helper.make_model(graph, opset_imports=[opset], ir_version=8), path)
