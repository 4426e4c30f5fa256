"""Perceptual distances between images: unweighted VGG16 features, or LPIPS with weights by path."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor, nn

from annotations_schema.errors import UsageError
from annotations_schema.weights import resolve
from training.models.frozen.cards import CARDS, pinned_card
from training.models.frozen.feature_net import FeatureNet, InputRule, check_layers
from training.models.frozen.state_file import load_needed, read_state
from training.models.precision import at_least_float32

VGG16_LAYERS = ("relu1_2", "relu2_2", "relu3_3", "relu4_3", "relu5_3")
"""The layers of LPIPS; the first two take about a third of the time of all five."""

PERCEPTUAL_NETS = ("vgg16_keras", "lpips")
"""Names that `load_perceptual` knows."""

# Keras' "caffe" preprocessing: BGR, 0..255, ImageNet means.
_KERAS_RULE = InputRule(
    size=None,
    is_bgr=True,
    scale=(127.5, 127.5, 127.5),
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
            targets = self.targets(self.net(x))
        squares = self._squares(targets, self.net(x_hat))
        return torch.stack([square.sum(1).mean() for square in squares]).sum()

    def targets(self, maps: Sequence[Tensor]) -> list[Tensor]:
        """What `between` compares others with, of the maps that `net` gave for B images."""
        return [_unit(features) for features in maps]

    def between(self, targets: Sequence[Tensor], maps_hat: Sequence[Tensor]) -> Tensor:
        """(B,) distance of each image, its maps from `net`; `forward` is the mean over images."""
        squares = self._squares(targets, maps_hat)
        return torch.stack([square.sum(1).mean((1, 2)) for square in squares]).sum(0)

    def _squares(self, targets: Sequence[Tensor], maps_hat: Sequence[Tensor]) -> list[Tensor]:
        squares = [
            (_unit(features) - target).square()
            for target, features in zip(targets, maps_hat, strict=True)
        ]
        if self.num_weights:
            squares = [s * self.get_buffer(f"weight_{i}") for i, s in enumerate(squares)]
        return squares


def load_perceptual(
    name: str,
    path: Path | None = None,
    *,
    layers: Sequence[str] = VGG16_LAYERS,
    download: bool = False,
    sha256: str | None = None,
) -> PerceptualDistance:
    """A perceptual distance.

    Args:
        name: "vgg16_keras" (unweighted, weights embedded in a package) or "lpips".
        path: the weights file; for lpips torchvision's vgg16-397923af.pth.
        layers: layers of the unweighted distance; lpips has all five or is another distance.
        download: for lpips without a path: let torchvision download its VGG16.
        sha256: what the weights file must be, in place of the card's own.

    Raises:
        UsageError: the name or a layer is unknown, or `sha256` is none.
        WeightsError: the file is absent or is not the right one.
    """
    if name not in PERCEPTUAL_NETS:
        raise UsageError(
            f"perceptual distance {name!r} is unknown: choose one of {', '.join(PERCEPTUAL_NETS)}"
        )
    check_layers(layers, VGG16_LAYERS, name)
    file = perceptual_file(name, path, download=download, sha256=sha256)
    if name == "lpips":
        if set(layers) != set(VGG16_LAYERS):
            raise UsageError(
                f"layers {', '.join(layers)}: lpips compares all of {', '.join(VGG16_LAYERS)}; "
                "leave the choice out, or take vgg16_keras"
            )
        return _lpips(file)
    # Imported here: lpips does without the library onnx.
    from training.models.frozen.onnx_net import OnnxNet

    net = OnnxNet(file.read_bytes(), [_keras_tensor(layer) for layer in layers])
    return PerceptualDistance(FeatureNet(net, _KERAS_RULE, layers))


def perceptual_file(
    name: str, path: Path | None = None, *, download: bool = False, sha256: str | None = None
) -> Path:
    """The weights file of a distance, hash checked; arguments and errors as `load_perceptual`."""
    if name == "lpips" and path is None and download:
        path = _downloaded_vgg16()
    return resolve(pinned_card(name, sha256), path)


def _unit(features: Tensor) -> Tensor:
    features = at_least_float32(features)
    # The epsilon stands under the root: where all channels are zero, the gradient of a root without
    # it is not a number.
    return features * (features.square().sum(1, keepdim=True) + 1e-10).rsqrt()


def _keras_tensor(layer: str) -> str:
    return f"functional_1/block{layer[4]}_conv{layer[6]}_1/Relu:0"


def _downloaded_vgg16() -> Path:
    """torchvision's file in torch's cache; fetched where it is not there."""
    from torchvision.models import VGG16_Weights

    url: str = VGG16_Weights.IMAGENET1K_V1.url
    # check_hash compares with the digits in the file's name.
    torch.hub.load_state_dict_from_url(url, check_hash=True, weights_only=True, map_location="cpu")
    return Path(torch.hub.get_dir()) / "checkpoints" / url.rsplit("/", 1)[1]


def _lpips(file: Path) -> PerceptualDistance:
    # Imported here: it pulls in torchvision, which the other distance does without.
    import lpips

    with warnings.catch_warnings():
        # lpips asks torchvision for its network in a way that torchvision deprecates.
        warnings.filterwarnings("ignore", category=UserWarning, module="torchvision")
        published = lpips.LPIPS(net="vgg", pnet_rand=True, verbose=False)
    state = read_state(CARDS["lpips"], file, ("features.0.weight",))
    # lpips calls slice2.5.bias what torchvision calls features.5.bias.
    renamed = {
        name: state[original]
        for name in published.net.state_dict()
        if (original := f"features.{name.split('.', 1)[1]}") in state
    }
    load_needed(published.net, renamed, CARDS["lpips"], file)
    weights = [lin.model[-1].weight.flatten() for lin in published.lins]
    return PerceptualDistance(nn.Sequential(published.scaling_layer, published.net), weights)
