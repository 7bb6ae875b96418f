"""Editing of ONNX graphs: producers, use counts and constants of values."""

from __future__ import annotations

from collections import Counter
from collections.abc import Container, Iterator, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

if TYPE_CHECKING:
    import onnx

Array = npt.NDArray[Any]


class GraphEditor:
    """A graph under rewriting. Nodes are added at the end; `finish` sorts and prunes it."""

    def __init__(self, graph: onnx.GraphProto) -> None:
        self.graph = graph
        self._initial = {item.name: item for item in graph.initializer}
        self._producers = {name: node for node in graph.node for name in node.output if name}

    def source(self, name: str) -> str:
        """The name of a value before any Identity nodes."""
        while (node := self._producers.get(name)) is not None and node.op_type == "Identity":
            name = node.input[0]
        return name

    def producer(self, name: str) -> onnx.NodeProto | None:
        """The node that computes a value; None for a graph input or an initializer."""
        return self._producers.get(self.source(name))

    def constant(self, name: str) -> Array | None:
        """The value of a constant, also through a Reshape; None if it depends on the input."""
        import onnx

        name = self.source(name)
        if name in self._initial:
            return np.asarray(onnx.numpy_helper.to_array(self._initial[name]))
        node = self._producers.get(name)
        if node is None or node.op_type not in ("Constant", "Reshape"):
            return None
        if node.op_type == "Constant":
            value = attributes(node).get("value")
            return None if value is None else np.asarray(onnx.numpy_helper.to_array(value))
        values = [self.constant(part) for part in node.input]
        if any(value is None for value in values):
            return None
        return np.reshape(values[0], values[1])  # type: ignore[arg-type]

    def use_counts(self) -> Counter[str]:
        """Number of uses of each value, by nodes other than Identity and by graph outputs."""
        reads = (
            name for node in self.graph.node if node.op_type != "Identity" for name in _reads(node)
        )
        counts = Counter(map(self.source, reads))
        counts.update(self.source(output.name) for output in self.graph.output)
        return counts

    def add(self, *nodes: onnx.NodeProto) -> None:
        """Add nodes, whose outputs must have new names."""
        self.graph.node.extend(nodes)
        added = self.graph.node[len(self.graph.node) - len(nodes) :]  # extend() copies
        self._producers.update({name: node for node in added for name in node.output})

    def set_outputs(self, *outputs: onnx.ValueInfoProto) -> None:
        """Replace the outputs of the graph."""
        del self.graph.output[:]
        self.graph.output.extend(outputs)

    def finish(self) -> None:
        """Remove what no output depends on, and sort the nodes topologically."""
        order: dict[int, onnx.NodeProto] = {}
        for output in self.graph.output:
            stack = [(output.name, False)]
            while stack:
                name, ready = stack.pop()
                node = self._producers.get(name)
                if node is None or id(node) in order:
                    continue
                if ready:
                    order[id(node)] = node
                    continue
                stack.append((name, True))
                stack += [(read, False) for read in _reads(node)]
        kept = list(order.values())
        del self.graph.node[:]
        self.graph.node.extend(kept)
        read = {name for node in kept for name in _reads(node)} | {
            output.name for output in self.graph.output
        }
        for items in (self.graph.initializer, self.graph.input):  # some list weights as inputs too
            left = [item for item in items if item.name in read or item.name not in self._initial]
            del items[:]
            items.extend(left)


def prefix_names(graph: onnx.GraphProto, prefix: str, keep: Container[str] = ()) -> None:
    """Prefix the names of all values, so that they cannot clash with added ones.

    As onnx.compose.add_prefix, which does not rename initializers used in subgraphs.
    """

    def new(name: str) -> str:
        return name if not name or name in keep else prefix + name

    for node in graph.node:
        node.input[:] = list(map(new, node.input))
        node.output[:] = list(map(new, node.output))
        for attribute in node.attribute:
            for inner in (attribute.g, *attribute.graphs):
                prefix_names(inner, prefix, keep)
    for item in (*graph.input, *graph.output, *graph.initializer, *graph.value_info):
        item.name = new(item.name)
    for sparse in graph.sparse_initializer:
        sparse.values.name = new(sparse.values.name)


def _reads(node: onnx.NodeProto) -> Iterator[str]:
    """Names of the values that a node reads, also in its subgraphs."""
    yield from node.input
    for value in attributes(node).values():
        for inner in getattr(value, "node", ()):
            yield from _reads(inner)


def attributes(node: onnx.NodeProto) -> dict[str, Any]:
    """A node's attributes by name."""
    import onnx

    return {item.name: onnx.helper.get_attribute_value(item) for item in node.attribute}


def new_node(kind: str, inputs: Sequence[str], output: str, **attributes: Any) -> onnx.NodeProto:
    """A node with one output."""
    import onnx

    return onnx.helper.make_node(kind, inputs, [output], **attributes)


def constant(name: str, value: npt.ArrayLike, dtype: npt.DTypeLike = np.float32) -> onnx.NodeProto:
    """A Constant node."""
    import onnx

    array = np.asarray(value, dtype)
    return new_node("Constant", [], name, value=onnx.numpy_helper.from_array(array, name))


def cast(source: str, output: str, dtype: npt.DTypeLike) -> onnx.NodeProto:
    """A Cast node."""
    return new_node("Cast", [source], output, to=_element_type(dtype))


def tensor(name: str, dtype: npt.DTypeLike, shape: Sequence[int | str]) -> onnx.ValueInfoProto:
    """The description of an input or output of a graph."""
    import onnx

    return onnx.helper.make_tensor_value_info(name, _element_type(dtype), shape)


def _element_type(dtype: npt.DTypeLike) -> int:
    import onnx

    return onnx.helper.np_dtype_to_tensor_dtype(np.dtype(dtype))


def reduction(
    kind: str, source: str, output: str, axes: Sequence[int], *, opset: int, keepdims: bool
) -> list[onnx.NodeProto]:
    """The nodes of a reduction: ReduceMax, ReduceMin or ReduceMean.

    opset: ONNX's default one of the model. Before 18 the axes are an attribute.
    """
    if opset < 18:
        return [new_node(kind, [source], output, axes=list(axes), keepdims=int(keepdims))]
    return [
        constant(f"{output}_axes", axes, np.int64),
        new_node(kind, [source, f"{output}_axes"], output, keepdims=int(keepdims)),
    ]


def default_opset(model: onnx.ModelProto) -> int:
    """The version of ONNX's own operators that a model uses."""
    return next(int(opset.version) for opset in model.opset_import if not opset.domain)
