"""The computation behind named tensors of an ONNX file: nodes in order, and constants."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import onnx
import onnx.helper
import onnx.numpy_helper
import torch
from google.protobuf.message import DecodeError  # type: ignore[import-untyped]  # ships no types
from torch import Tensor

from annotations_schema.errors import WeightsError
from training.models.frozen.onnx_ops import OPERATORS

# Read here, then rewritten by onnx_simplify.
_REWRITTEN = frozenset({"BatchNormalization", "Identity", "Dropout"})


class Node(NamedTuple):
    """One application of an operator with one output; "" names an absent optional input."""

    operator: str
    inputs: tuple[str, ...]
    output: str
    attributes: Mapping[str, Any]


class Graph(NamedTuple):
    """Nodes in order of execution, constant tensors by name, and the tensors that are asked for."""

    nodes: tuple[Node, ...]
    constants: Mapping[str, Tensor]
    taps: tuple[str, ...]

    @property
    def inputs(self) -> list[str]:
        """Names that are neither constant nor made by a node."""
        made = {node.output for node in self.nodes}
        read = {name for node in self.nodes for name in node.inputs} | set(self.taps)
        return sorted(read - made - {"", *self.constants})


def read_graph(model_bytes: bytes, taps: Sequence[str]) -> Graph:
    """The part of a model that the taps depend on; nodes of constants alone are computed.

    Raises:
        WeightsError: the bytes are no ONNX model, a tap is not in it, or an operator is unknown.
    """
    nodes, constants = _parse(model_bytes)
    missing = sorted(set(taps) - {node.output for node in nodes})
    if missing:
        raise WeightsError(f"the model has no tensor {', '.join(missing)}: its layers are others")
    kept = needed(nodes, taps)
    unknown = sorted({node.operator for node in kept} - _REWRITTEN - OPERATORS.keys())
    if unknown:
        raise WeightsError(
            f"cannot run the operators {', '.join(unknown)}: onnx_ops.py knows "
            f"{', '.join(sorted(OPERATORS))}; add the missing ones there"
        )
    return _fold_constants(Graph(kept, constants, tuple(taps)))


def _parse(model_bytes: bytes) -> tuple[list[Node], dict[str, Tensor]]:
    try:
        model = onnx.load_model_from_string(model_bytes)
    except DecodeError as error:
        raise WeightsError(f"{len(model_bytes)} bytes are not an ONNX model: {error}") from error
    opset = next((entry.version for entry in model.opset_import if not entry.domain), 1)
    constants = {tensor.name: _tensor(tensor) for tensor in model.graph.initializer}
    nodes = []
    for proto in model.graph.node:
        attributes = {a.name: _attribute(a) for a in proto.attribute} | {"opset": opset}
        if proto.op_type == "Constant" and "value" in attributes:
            constants[proto.output[0]] = attributes["value"]
        else:
            nodes.append(Node(proto.op_type, tuple(proto.input), proto.output[0], attributes))
    return nodes, constants


def _tensor(proto: onnx.TensorProto) -> Tensor:
    return torch.from_numpy(onnx.numpy_helper.to_array(proto).copy())


def _attribute(proto: onnx.AttributeProto) -> Any:
    value = onnx.helper.get_attribute_value(proto)
    if isinstance(value, onnx.TensorProto):
        return _tensor(value)
    return value.decode() if isinstance(value, bytes) else value


def needed(nodes: Sequence[Node], taps: Sequence[str]) -> tuple[Node, ...]:
    """The nodes that the taps depend on, in order."""
    wanted = set(taps)
    kept = []
    for node in reversed(nodes):
        if node.output in wanted:
            wanted.update(node.inputs)
            kept.append(node)
    return tuple(reversed(kept))


@torch.no_grad()
def _fold_constants(graph: Graph) -> Graph:
    constants = dict(graph.constants)
    kept = []
    for node in graph.nodes:
        is_constant = all(name in constants for name in node.inputs if name)
        if is_constant and node.operator in OPERATORS:
            operands = [constants[name] if name else None for name in node.inputs]
            constants[node.output] = OPERATORS[node.operator](node.attributes, *operands)
        else:
            kept.append(node)
    return Graph(tuple(kept), constants, graph.taps)
