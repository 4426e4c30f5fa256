"""ONNX operators as torch functions: only what the frozen networks and their likes need.

Each function takes the node's attributes and its input tensors (None for an absent optional one).
Semantics: the operator specification, https://onnx.ai/onnx/operators. Integer tensors (shapes,
axes) live on the CPU, so reading them never waits for a device.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

Attributes = Mapping[str, Any]
"""Attribute values by name, and "opset", the version of the operator set of the file."""

Operator = Callable[..., Tensor]

# onnx.TensorProto.DataType numbers that a Cast may name.
_DTYPES = {
    1: torch.float32,
    6: torch.int32,
    7: torch.int64,
    9: torch.bool,
    10: torch.float16,
    11: torch.float64,
}


def conv(a: Attributes, x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """Conv, 1-d or 2-d."""
    rank = x.ndim - 2
    strides, dilations = a.get("strides", [1] * rank), a.get("dilations", [1] * rank)
    x, padding = _padded(a, x, list(weight.shape[2:]), strides, dilations)
    convolve = F.conv1d if rank == 1 else F.conv2d
    return convolve(x, weight, bias, strides, padding, dilations, a.get("group", 1))


def max_pool(a: Attributes, x: Tensor) -> Tensor:
    """MaxPool, 2-d."""
    kernel, strides = a["kernel_shape"], a.get("strides", [1, 1])
    dilations = a.get("dilations", [1, 1])
    x, padding = _padded(a, x, kernel, strides, dilations, value=float("-inf"))
    return F.max_pool2d(x, kernel, strides, padding, dilations, bool(a.get("ceil_mode", 0)))


def average_pool(a: Attributes, x: Tensor) -> Tensor:
    """AveragePool, 2-d; padding that differs between sides counts as pixels only where asked."""
    kernel, strides = a["kernel_shape"], a.get("strides", [1, 1])
    counts_padding = bool(a.get("count_include_pad", 0))
    padded, padding = _padded(a, x, kernel, strides, [1, 1])
    ceil = bool(a.get("ceil_mode", 0))
    pooled = F.avg_pool2d(padded, kernel, strides, padding, ceil, counts_padding)
    if padded is x or counts_padding:
        return pooled
    ones, _ = _padded(a, torch.ones_like(x[:1, :1]), kernel, strides, [1, 1])
    return pooled / F.avg_pool2d(ones, kernel, strides, 0, ceil)


def _padded(
    a: Attributes,
    x: Tensor,
    kernel: list[int],
    strides: list[int],
    dilations: list[int],
    *,
    value: float = 0.0,
) -> tuple[Tensor, list[int]]:
    """x padded where the sides differ, and the padding that torch is still to add on both sides."""
    rank = len(kernel)
    before, after = [0] * rank, [0] * rank
    if a.get("auto_pad", "NOTSET") in ("SAME_UPPER", "SAME_LOWER"):
        for i, size in enumerate(x.shape[2:]):
            covered = (-(-size // strides[i]) - 1) * strides[i] + (kernel[i] - 1) * dilations[i] + 1
            missing = max(covered - size, 0)
            more, less = missing - missing // 2, missing // 2
            before[i], after[i] = (less, more) if a["auto_pad"] == "SAME_UPPER" else (more, less)
    elif a.get("auto_pad", "NOTSET") == "NOTSET":
        pads = a.get("pads", [0] * 2 * rank)
        before, after = pads[:rank], pads[rank:]
    if before == after:
        return x, before
    sides = [side for pair in zip(reversed(before), reversed(after), strict=True) for side in pair]
    return F.pad(x, sides, value=value), [0] * rank


def scale_shift(a: Attributes, x: Tensor, scale: Tensor, shift: Tensor) -> Tensor:
    """A folded BatchNormalization: x * scale + shift per channel."""
    shape = (1, -1) + (1,) * (x.ndim - 2)
    return x * scale.reshape(shape) + shift.reshape(shape)


def gemm(a: Attributes, left: Tensor, right: Tensor, bias: Tensor | None = None) -> Tensor:
    """Gemm."""
    left = left.T if a.get("transA", 0) else left
    right = right.T if a.get("transB", 0) else right
    product: Tensor = a.get("alpha", 1.0) * (left @ right)
    return product if bias is None else product + a.get("beta", 1.0) * bias


def softmax(a: Attributes, x: Tensor) -> Tensor:
    """Softmax; before opset 13 over all axes from `axis` on."""
    if a["opset"] >= 13:
        return x.softmax(a.get("axis", -1))
    return x.flatten(a.get("axis", 1)).softmax(-1).reshape(x.shape)


def divide(a: Attributes, left: Tensor, right: Tensor) -> Tensor:
    """Div; of integers it truncates."""
    if left.is_floating_point():
        return left / right
    return torch.div(left, right, rounding_mode="trunc")


def reduce(function: Callable[..., Tensor]) -> Operator:
    """A Reduce* operator from `function(x, dim, keepdim)`."""

    def reduced(a: Attributes, x: Tensor, axes: Tensor | None = None) -> Tensor:
        over = _integers(axes) if axes is not None else a.get("axes", list(range(x.ndim)))
        return function(x, over, bool(a.get("keepdims", 1)))

    return reduced


def reshape(a: Attributes, x: Tensor, shape: Tensor) -> Tensor:
    """Reshape; 0 keeps a size unless `allowzero`."""
    sizes = _integers(shape)
    if not a.get("allowzero", 0):
        sizes = [x.shape[i] if size == 0 else size for i, size in enumerate(sizes)]
    return x.reshape(sizes)


def flatten(a: Attributes, x: Tensor) -> Tensor:
    """Flatten to two axes."""
    axis = a.get("axis", 1)
    return x.reshape(x.shape[:axis].numel(), -1)


def squeeze(a: Attributes, x: Tensor, axes: Tensor | None = None) -> Tensor:
    """Squeeze."""
    over = _integers(axes) if axes is not None else a.get("axes")
    return x.squeeze() if over is None else x.squeeze(tuple(over))


def unsqueeze(a: Attributes, x: Tensor, axes: Tensor | None = None) -> Tensor:
    """Unsqueeze; axes count in the result."""
    over = _integers(axes) if axes is not None else a["axes"]
    rank = x.ndim + len(over)
    for axis in sorted(axis % rank for axis in over):
        x = x.unsqueeze(axis)
    return x


def slice_axes(
    a: Attributes,
    x: Tensor,
    starts: Tensor,
    ends: Tensor,
    axes: Tensor | None = None,
    steps: Tensor | None = None,
) -> Tensor:
    """Slice with positive steps (opset 10 and later)."""
    begins, stops = _integers(starts), _integers(ends)
    over = _integers(axes) if axes is not None else list(range(len(begins)))
    strides = _integers(steps) if steps is not None else [1] * len(begins)
    index = [slice(None)] * x.ndim
    for begin, stop, axis, stride in zip(begins, stops, over, strides, strict=True):
        index[axis] = slice(begin, stop, stride)
    return x[tuple(index)]


def gather(a: Attributes, x: Tensor, indices: Tensor) -> Tensor:
    """Gather along one axis."""
    axis = a.get("axis", 0) % x.ndim
    flat = torch.where(indices < 0, indices + x.shape[axis], indices).reshape(-1).to(x.device)
    taken = x.index_select(axis, flat)
    return taken.reshape(*x.shape[:axis], *indices.shape, *x.shape[axis + 1 :])


def dequantize(a: Attributes, x: Tensor, scale: Tensor, zero: Tensor | None = None) -> Tensor:
    """DequantizeLinear: one scale, one per index of `axis`, or one per block of `block_size`."""
    offset = torch.zeros_like(scale) if zero is None else zero.to(scale.dtype)
    axis, block = a.get("axis", 1), a.get("block_size", 0)
    if block:
        size = x.shape[axis]
        scale, offset = (
            t.repeat_interleave(block, axis).narrow(axis, 0, size) for t in (scale, offset)
        )
    elif scale.numel() > 1:
        shape = [1] * x.ndim
        shape[axis] = -1
        scale, offset = scale.reshape(shape), offset.reshape(shape)
    return (x.to(scale.dtype) - offset) * scale


def clip(a: Attributes, x: Tensor, low: Tensor | None = None, high: Tensor | None = None) -> Tensor:
    """Clip; limits are inputs since opset 11, attributes before."""
    limits = (
        float(given) if given is not None else a.get(name)
        for given, name in ((low, "min"), (high, "max"))
    )
    return x.clamp(*limits)


def _integers(x: Tensor) -> list[int]:
    values: list[int] = x.reshape(-1).tolist()
    return values


OPERATORS: Mapping[str, Operator] = {
    "Conv": conv,
    "MaxPool": max_pool,
    "AveragePool": average_pool,
    "GlobalAveragePool": lambda a, x: x.mean((2, 3), keepdim=True),
    "ScaleShift": scale_shift,
    "Gelu": lambda a, x: F.gelu(x, approximate=a.get("approximate", "none")),
    "Gemm": gemm,
    "MatMul": lambda a, x, y: x @ y,
    "Add": lambda a, x, y: x + y,
    "Sub": lambda a, x, y: x - y,
    "Mul": lambda a, x, y: x * y,
    "Div": divide,
    "Pow": lambda a, x, y: x**y,
    "Sqrt": lambda a, x: x.sqrt(),
    "Exp": lambda a, x: x.exp(),
    "Erf": lambda a, x: x.erf(),
    "Clip": clip,
    "Relu": lambda a, x: F.relu(x),
    "LeakyRelu": lambda a, x: F.leaky_relu(x, a.get("alpha", 0.01)),
    "PRelu": lambda a, x, slope: torch.where(x < 0, x * slope, x),
    "Sigmoid": lambda a, x: x.sigmoid(),
    "HardSigmoid": lambda a, x: (x * a.get("alpha", 0.2) + a.get("beta", 0.5)).clamp(0, 1),
    "HardSwish": lambda a, x: F.hardswish(x),
    "Tanh": lambda a, x: x.tanh(),
    "Softmax": softmax,
    "ReduceMean": reduce(torch.mean),
    "ReduceSum": reduce(torch.sum),
    "Reshape": reshape,
    "Flatten": flatten,
    "Squeeze": squeeze,
    "Unsqueeze": unsqueeze,
    "Transpose": lambda a, x: x.permute(a.get("perm", list(range(x.ndim))[::-1])),
    "Concat": lambda a, *parts: torch.cat(parts, a["axis"]),
    "Slice": slice_axes,
    "Gather": gather,
    "Shape": lambda a, x: torch.tensor(x.shape),
    "Cast": lambda a, x: x.to(_DTYPES[a["to"]]),
    "DequantizeLinear": dequantize,
}
"""By name; onnx_simplify rewrites BatchNormalization, Identity and Dropout before anything runs."""
