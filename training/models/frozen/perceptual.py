"""Perceptual distances between images: unweighted VGG16 features, or LPIPS with weights by path."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from annotations_schema.errors import UsageError, WeightsError
from annotations_schema.weights import read_weights, resolve
from training.models.frozen.cards import CARDS
from training.models.frozen.feature_net import FeatureNet, InputRule
from training.models.precision import at_least_float32

VGG16_LAYERS = ("relu1_2", "relu2_2", "relu3_3", "relu4_3", "relu5_3")
"""The layers of LPIPS; the first two take about a third of the time of all five."""

PERCEPTUAL_NETS = ("vgg16_keras", "lpips")
"""Names that `load_perceptual` knows."""

# Keras' "caffe" preprocessing: BGR, 0..255, ImageNet means.
_KERAS_RULE = InputRule(
    size=None,
    is_bgr=True,
    scale=127.5,
    shift=(127.5 - 103.939, 127.5 - 116.779, 127.5 - 123.68),
    is_channels_last=True,
)


class PerceptualDistance(nn.Module):
    """(x, x_hat) -> mean over images of the distance between features of a frozen network.

    Per layer: features scaled to unit length over channels, squared difference, weighted sum over
    channels, mean over positions; layers are summed. With the learned channel weights of Zhang et
    al. 2018 and their VGG16 this is LPIPS; without weights it is only a perceptual distance, and is
    never to be called LPIPS.
    """

    def __init__(self, net: nn.Module, channel_weights: Sequence[Tensor] | None = None) -> None:
        """Wraps a network.

        Args:
            net: images -> one (B, C, H, W) map per layer.
            channel_weights: (C,) per layer; all one when None.
        """
        super().__init__()
        self.net = net.eval().requires_grad_(False)
        self.num_weights = 0 if channel_weights is None else len(channel_weights)
        for i, weight in enumerate(channel_weights or ()):
            self.register_buffer(f"weight_{i}", weight.detach().reshape(1, -1, 1, 1))

    def forward(self, x: Tensor, x_hat: Tensor) -> Tensor:
        """0-d distance of (B, 3, H, W) images in [-1, 1]; gradients reach x_hat alone."""
        with torch.no_grad():
            targets = [_unit(features) for features in self.net(x)]
        squares = [
            (_unit(features) - target).square()
            for target, features in zip(targets, self.net(x_hat), strict=True)
        ]
        if self.num_weights:
            squares = [s * self.get_buffer(f"weight_{i}") for i, s in enumerate(squares)]
        return torch.stack([square.sum(1).mean() for square in squares]).sum()


def load_perceptual(
    name: str,
    path: Path | None = None,
    *,
    layers: Sequence[str] = VGG16_LAYERS,
    download: bool = False,
) -> PerceptualDistance:
    """A perceptual distance.

    Args:
        name: "vgg16_keras" (unweighted, weights embedded in a package) or "lpips".
        path: the weights file; for lpips torchvision's vgg16-397923af.pth.
        layers: layers of the unweighted distance.
        download: for lpips without a path: let torchvision download its VGG16.

    Raises:
        UsageError: the name or a layer is unknown.
        WeightsError: the file is absent or is not the right one.
    """
    if name == "vgg16_keras":
        tensors = {layer: _keras_tensor(layer) for layer in VGG16_LAYERS}
        net = FeatureNet(read_weights(CARDS[name], path), _KERAS_RULE, tensors, layers)
        return PerceptualDistance(net)
    if name == "lpips":
        return _lpips(path, download=download)
    raise UsageError(
        f"perceptual distance {name!r} is unknown: choose one of {', '.join(PERCEPTUAL_NETS)}"
    )


def _unit(features: Tensor) -> Tensor:
    features = at_least_float32(features)
    # The epsilon stands under the root: where all channels are zero, the gradient of a root without
    # it is not a number.
    return features * (features.square().sum(1, keepdim=True) + 1e-10).rsqrt()


def _keras_tensor(layer: str) -> str:
    return f"functional_1/block{layer[4]}_conv{layer[6]}_1/Relu:0"


def _lpips(path: Path | None, *, download: bool) -> PerceptualDistance:
    # Imported here: it pulls in torchvision, which the other distance does without.
    import lpips

    vgg16_file = None if path is None and download else resolve(CARDS["lpips"], path)
    with warnings.catch_warnings():
        # lpips asks torchvision for its network in a way that torchvision deprecates.
        warnings.filterwarnings("ignore", category=UserWarning, module="torchvision")
        published = lpips.LPIPS(net="vgg", pnet_rand=vgg16_file is not None, verbose=False)
    if vgg16_file is not None:
        published.net.load_state_dict(_torchvision_vgg16(vgg16_file, published.net.state_dict()))
    weights = [lin.model[-1].weight.flatten() for lin in published.lins]
    return PerceptualDistance(nn.Sequential(published.scaling_layer, published.net), weights)


def _torchvision_vgg16(path: Path, expected: dict[str, Any]) -> dict[str, Tensor]:
    """The weights under lpips' names: slice2.5.bias is torchvision's features.5.bias."""
    state = torch.load(path, map_location="cpu", weights_only=True)
    renamed = {name: f"features.{name.split('.', 1)[1]}" for name in expected}
    if not set(renamed.values()) <= set(state):
        raise WeightsError(f"{path} does not hold torchvision's VGG16: {CARDS['lpips'].hint}")
    return {name: state[original] for name, original in renamed.items()}
