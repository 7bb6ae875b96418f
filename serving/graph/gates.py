"""Squeeze-and-excitation that is added to its input, in one product.

x + x * s, where s is a number for each channel, is x * (1 + s): one pass over the map, not two.
PP-OCR's detectors have eight of these (RSEFPN: Li et al., "PP-OCRv3", 2022, section 2.1).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from serving.graph.edit import Edit, constant

if TYPE_CHECKING:
    import onnx


def join_gates(edit: Edit) -> None:
    """Rewrite every such sum."""
    import onnx

    found = [(node, gate) for node in edit.graph.node if (gate := _gate(edit, node)) is not None]
    if found:
        edit.add(constant("gate_one", np.ones(1, np.float32)))
    for number, (node, (x, scale)) in enumerate(found):
        name = f"gate_{number}"
        edit.add(onnx.helper.make_node("Add", [scale, "gate_one"], [name]))
        node.op_type = "Mul"
        node.input[:] = [x, name]


def _gate(edit: Edit, node: onnx.NodeProto) -> tuple[str, str] | None:
    """(x, s) of a node that adds x and x * s."""
    if node.op_type != "Add":
        return None
    for x, product in (node.input[:2], node.input[1::-1]):
        made = edit.maker(product)
        if made is None or made.op_type != "Mul":
            continue
        for one, scale in (made.input[:2], made.input[1::-1]):
            gate = edit.maker(scale)
            if edit.source(one) == edit.source(x) and gate and gate.op_type in _GATES:
                return x, scale
    return None


_GATES = ("HardSigmoid", "Sigmoid")
"""What ends a gate."""
