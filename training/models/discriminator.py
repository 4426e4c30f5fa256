"""PatchGAN: a score per patch of an image, real or made."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from typing import Literal

from torch import Tensor, nn

from annotations_schema.errors import UsageError

_MAX_MULTIPLIER = 8


@dataclass(frozen=True, kw_only=True, slots=True)
class DiscriminatorConfig:
    """Shape of the discriminator."""

    channels: int = 64
    """Channels of the first layer (`ndf`); doubled per layer up to eight times."""
    num_layers: int = 3
    """Stride-2 layers; with 3 a score sees 70 x 70 px."""
    norm: Literal["group", "batch"] = "group"
    """Group norm treats each image for itself, so real and made images cannot leak into each other
    through batch statistics, small batches work and nothing is to be synchronised between devices.
    "batch" is what LlamaGen and taming-transformers use."""
    norm_groups: int = 32
    """Groups of a group norm; must divide twice the channels of the first layer."""

    def __post_init__(self) -> None:
        if self.norm not in ("group", "batch"):
            raise UsageError(f"norm {self.norm!r} must be group or batch")
        if self.num_layers < 1:
            raise UsageError(f"num_layers {self.num_layers} must be at least 1")
        # Normed layers have 2, 4 or 8 times `channels`.
        if self.norm == "group" and 2 * self.channels % self.norm_groups:
            raise UsageError(
                f"norm_groups {self.norm_groups} must divide {2 * self.channels}, twice the "
                f"channels: change channels or norm_groups"
            )


class PatchDiscriminator(nn.Module):
    """(B, 3, H, W) in [-1, 1] -> (B, 1, h, w) logits, higher = more real."""

    def __init__(self, config: DiscriminatorConfig) -> None:
        super().__init__()
        self.config = config
        widths = [config.channels * min(2**i, _MAX_MULTIPLIER) for i in range(config.num_layers)]
        layers: list[nn.Module] = [_conv(3, widths[0], stride=2), nn.LeakyReLU(0.2)]
        for width_in, width in pairwise(widths):
            layers += _normed(config, width_in, width, stride=2)
        last = config.channels * min(2**config.num_layers, _MAX_MULTIPLIER)
        layers += _normed(config, widths[-1], last, stride=1)
        layers.append(_conv(last, 1, stride=1))
        self.main = nn.Sequential(*layers)
        self.apply(_initialise)

    def forward(self, x: Tensor) -> Tensor:
        """Logits per patch."""
        logits: Tensor = self.main(x)
        return logits


def _conv(channels_in: int, channels_out: int, *, stride: int, bias: bool = True) -> nn.Conv2d:
    return nn.Conv2d(channels_in, channels_out, 4, stride=stride, padding=1, bias=bias)


def _normed(
    config: DiscriminatorConfig, channels_in: int, channels_out: int, *, stride: int
) -> list[nn.Module]:
    norm = (
        nn.GroupNorm(config.norm_groups, channels_out)
        if config.norm == "group"
        else nn.BatchNorm2d(channels_out)
    )
    # The norm that follows takes out any bias of its own group or channel.
    conv = _conv(channels_in, channels_out, stride=stride, bias=config.norm == "group")
    return [conv, norm, nn.LeakyReLU(0.2)]


def _initialise(module: nn.Module) -> None:
    """The initialisation of pix2pix: small normal weights keep first logits near zero."""
    if isinstance(module, nn.Conv2d):
        nn.init.normal_(module.weight, 0.0, 0.02)
        if module.bias is not None:
            nn.init.zeros_(module.bias)
    elif isinstance(module, nn.BatchNorm2d | nn.GroupNorm):
        nn.init.normal_(module.weight, 1.0, 0.02)
        nn.init.zeros_(module.bias)
