"""An ONNX file as a frozen torch module whose inner tensors can be read and differentiated."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn

from annotations_schema.errors import WeightsError
from training.models.frozen.onnx_graph import read_graph
from training.models.frozen.onnx_ops import OPERATORS
from training.models.frozen.onnx_simplify import simplify


class OnnxNet(nn.Module):
    """A frozen network with one input, returning named inner tensors ("taps").

    Only what the taps depend on is kept. What is constant is computed once, so quantised weights
    are dequantised when the file is read. Weights are buffers: gradients reach the input and
    nothing else, and there is no training mode.
    """

    def __init__(self, model_bytes: bytes, taps: Sequence[str]) -> None:
        """Reads a model.

        Args:
            model_bytes: a serialised ONNX model.
            taps: names of the tensors to return.

        Raises:
            WeightsError: the bytes are no ONNX model, a tap is not in it, an operator is unknown,
                or the taps depend on other than one input.
        """
        super().__init__()
        graph = simplify(read_graph(model_bytes, taps))
        if len(graph.inputs) != 1:
            raise WeightsError(f"the taps depend on inputs {graph.inputs}: it must be exactly one")
        self._nodes, self._taps, self._input = graph.nodes, graph.taps, graph.inputs[0]
        self._last_use = {name: i for i, node in enumerate(self._nodes) for name in node.inputs}
        # Shapes and axes stay on the CPU, where reading them does not wait for a device.
        self._integers: dict[str, Tensor] = {}
        self._buffer_names: dict[str, str] = {}
        for name in sorted(self._last_use.keys() & graph.constants.keys()):
            if graph.constants[name].is_floating_point():
                # Tensor names hold dots, which buffer names must not.
                self._buffer_names[name] = f"constant_{len(self._buffer_names)}"
                self.register_buffer(self._buffer_names[name], graph.constants[name])
            else:
                self._integers[name] = graph.constants[name]

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        """The taps' tensors, in their order, for the network's own input."""
        values = {self._input: x, **self._integers}
        values |= {name: self.get_buffer(buffer) for name, buffer in self._buffer_names.items()}
        for i, node in enumerate(self._nodes):
            operands = [values[name] if name else None for name in node.inputs]
            values[node.output] = OPERATORS[node.operator](node.attributes, *operands)
            for name in node.inputs:
                if self._last_use[name] == i and name not in self._taps:
                    values.pop(name, None)
        return tuple(values[tap] for tap in self._taps)
