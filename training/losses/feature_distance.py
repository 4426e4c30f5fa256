"""The distance of text and face loss: feature L1 over the layers of a frozen network.

Legend: N region crops, layer l has C_l channels of H_l x W_l positions.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Literal

import torch
from torch import Tensor

from annotations_schema.errors import UsageError

FeatureExtractor = Callable[[Tensor], Sequence[Tensor]]
"""(N, 3, h, w) RGB in [-1, 1] -> one (N, C_l, H_l, W_l) map per layer."""

ChannelReduction = Literal["sum", "mean"]


def feature_l1(
    crops: Tensor, crops_hat: Tensor, net: FeatureExtractor, channels: ChannelReduction = "sum"
) -> Tensor:
    """l_i = sum over layers of 1 / (H_l W_l) * ||Phi_l(p_i) - Phi_l(p_hat_i)||_1, for each crop.

    The paper's normaliser is H_l W_l alone, so channels are summed. "mean" divides each layer by
    C_l as well: a value 30 to 1,000 times smaller, by the width of the layers, which gives wide
    layers no more say than narrow ones and asks for a weight larger by that factor.

    Args:
        crops: (N, 3, h, w), of the original; no gradient flows to it.
        crops_hat: (N, 3, h, w), of the reconstruction.
        net: the frozen network.
        channels: "sum" as published, or "mean".

    Returns:
        (N,), at least 0.
    """
    with torch.no_grad():
        targets = net(crops)
    distances = [
        _layer_l1(target, features, channels)
        for target, features in zip(targets, net(crops_hat), strict=True)
    ]
    return torch.stack(distances).sum(0)


def _layer_l1(target: Tensor, features: Tensor, channels: ChannelReduction) -> Tensor:
    per_channel = (features - target).abs().mean(dim=(2, 3))
    if channels == "sum":
        return per_channel.sum(1)
    if channels == "mean":
        return per_channel.mean(1)
    raise UsageError(f"channel reduction {channels!r} must be sum or mean")
