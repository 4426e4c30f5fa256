"""A frozen network as feature maps of an image in the tokenizer's own range."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from annotations_schema.errors import UsageError
from training.models.precision import at_least_float32


@dataclass(frozen=True, kw_only=True, slots=True)
class InputRule:
    """How a network wants its pixels, starting from RGB in [-1, 1]."""

    size: tuple[int, int] | None
    """(height, width) that images are resized to, or None where any size will do."""
    is_bgr: bool = False
    """Blue first."""
    scale: tuple[float, float, float] = (1.0, 1.0, 1.0)
    """Factor on [-1, 1]; 127.5 with a shift of 127.5 gives [0, 255]. One per channel in the
    network's order."""
    shift: tuple[float, float, float] = (0.0, 0.0, 0.0)
    """Added after the factor, one per channel in the network's order."""
    is_channels_last: bool = False
    """(N, H, W, 3) instead of (N, 3, H, W)."""


class FeatureNet(nn.Module):
    """RGB images in [-1, 1] -> the feature maps of named layers of a frozen network."""

    scale: Tensor
    shift: Tensor

    def __init__(self, net: nn.Module, rule: InputRule, layers: Sequence[str]) -> None:
        """Wraps a network.

        Args:
            net: images by its own rule -> (N, C, H, W) or (N, C), one for each of `layers`.
            rule: its input.
            layers: what its outputs are called.
        """
        super().__init__()
        self.rule = rule
        self.layers = tuple(layers)
        self.net = net.eval().requires_grad_(False)
        self.register_buffer("scale", torch.tensor(rule.scale).reshape(1, 3, 1, 1))
        self.register_buffer("shift", torch.tensor(rule.shift).reshape(1, 3, 1, 1))

    @property
    def input_size(self) -> tuple[int, int] | None:
        """(height, width) the network works at, or None where any size will do."""
        return self.rule.size

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        """(N, 3, h, w) of any size -> one (N, C, H, W) map per layer, at least float32."""
        if self.rule.size is not None and x.shape[2:] != self.rule.size:
            x = F.interpolate(x, self.rule.size, mode="bilinear", align_corners=False)
        if self.rule.is_bgr:
            x = x.flip(1)
        x = x * self.scale + self.shift
        features = self.net(x.movedim(1, -1) if self.rule.is_channels_last else x)
        # A vector is a map of one position.
        maps = (f[:, :, None, None] if f.ndim == 2 else f for f in features)
        return tuple(at_least_float32(features) for features in maps)


def check_layers(layers: Sequence[str], on_offer: Sequence[str], net: str) -> None:
    """Refuses layers that a network does not have.

    Raises:
        UsageError: a layer is not on offer, or there is none; lists those on offer.
    """
    known = ", ".join(on_offer)
    for layer in layers:
        if layer not in on_offer:
            raise UsageError(f"layer {layer!r} is unknown, known are {known} ({net})")
    if not layers:
        raise UsageError(f"no layers: name at least one of {known} ({net})")
