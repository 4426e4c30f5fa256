"""The VQGAN encoder and decoder, with the parameter names of the published InsightTok checkpoint.

Legend: B images, C channels, H x W pixels, f = downsampling factor 2^(levels - 1).
Architecture and names: taming-transformers' VQGAN as configured by InsightTok (`default`).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from annotations_schema.errors import UsageError
from training.models.norm_silu import NormSiLU


@dataclass(frozen=True, kw_only=True, slots=True)
class AutoencoderConfig:
    """Shape of encoder and decoder."""

    channels: int
    """Channels of the finest level."""
    channel_multipliers: tuple[int, ...] = (1, 1, 2, 2, 4)
    """One factor of `channels` per level, finest first; each further level halves height, width."""
    num_res_blocks: int = 2
    """Residual blocks per encoder level; a decoder level has one more."""
    attention_levels: tuple[int, ...] = (4,)
    """Levels with an attention block after each residual block."""
    middle_attention: bool = True
    """Attention between the two middle blocks; its cost grows with the square of the pixels."""
    z_channels: int = 256
    """Channels between the autoencoder and its 1x1 convolutions to and from the codebook."""
    dropout: float = 0.0
    """Share of features dropped inside a residual block, [0, 1)."""
    norm_groups: int = 32
    """Groups of every GroupNorm; must divide the channels of every level."""

    def __post_init__(self) -> None:
        for level, width in enumerate(self.widths):
            if width % self.norm_groups:
                raise UsageError(
                    f"level {level} has {width} channels, which norm_groups = {self.norm_groups} "
                    f"does not divide: change channels or norm_groups"
                )
        if not set(self.attention_levels) <= set(range(len(self.channel_multipliers))):
            raise UsageError(
                f"attention_levels {self.attention_levels} must lie in 0.."
                f"{len(self.channel_multipliers) - 1}, the levels of channel_multipliers"
            )

    @property
    def downsampling(self) -> int:
        """Pixels per latent position along each axis."""
        return int(2 ** (len(self.channel_multipliers) - 1))

    @property
    def widths(self) -> tuple[int, ...]:
        """Channels of each level, finest first."""
        return tuple(self.channels * multiplier for multiplier in self.channel_multipliers)


class ResBlock(nn.Module):
    """x + conv(silu(norm(conv(silu(norm(x)))))), with a 1x1 shortcut where channels change."""

    def __init__(self, config: AutoencoderConfig, channels_in: int, channels_out: int) -> None:
        super().__init__()
        self.norm1 = norm_silu(config, channels_in)
        self.conv1 = conv3x3(channels_in, channels_out)
        self.norm2 = norm_silu(config, channels_out)
        self.dropout = nn.Dropout(config.dropout)
        self.conv2 = conv3x3(channels_out, channels_out)
        self.nin_shortcut = (
            nn.Conv2d(channels_in, channels_out, 1) if channels_in != channels_out else None
        )

    def forward(self, x: Tensor) -> Tensor:
        """(B, C_in, H, W) -> (B, C_out, H, W)."""
        h = self.conv1(self.norm1(x))
        h = self.conv2(self.dropout(self.norm2(h)))
        shortcut = x if self.nin_shortcut is None else self.nin_shortcut(x)
        out: Tensor = shortcut + h
        return out


class AttnBlock(nn.Module):
    """x + single-head attention over all positions."""

    def __init__(self, config: AutoencoderConfig, channels: int) -> None:
        super().__init__()
        self.norm = group_norm(config, channels)
        self.q = nn.Conv2d(channels, channels, 1)
        self.k = nn.Conv2d(channels, channels, 1)
        self.v = nn.Conv2d(channels, channels, 1)
        self.proj_out = nn.Conv2d(channels, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) -> the same shape."""
        h = self.norm(x)
        # One head of width C: (B, 1, H W, C); the scale is then C^-0.5, as in the publication.
        q, k, v = (
            conv(h).flatten(2).transpose(1, 2).unsqueeze(1) for conv in (self.q, self.k, self.v)
        )
        attended = F.scaled_dot_product_attention(q, k, v)
        out: Tensor = x + self.proj_out(attended.squeeze(1).transpose(1, 2).reshape(x.shape))
        return out


class Downsample(nn.Module):
    """Stride-2 convolution that pads one pixel right and below only."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, 3, stride=2)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) -> (B, C, H / 2, W / 2)."""
        out: Tensor = self.conv(F.pad(x, (0, 1, 0, 1)))
        return out


class Upsample(nn.Module):
    """Nearest-neighbour doubling, then a convolution."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = conv3x3(channels, channels)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) -> (B, C, 2 H, 2 W)."""
        out: Tensor = self.conv(F.interpolate(x, scale_factor=2.0, mode="nearest"))
        return out


class Level(nn.Module):
    """The residual (and attention) blocks of one resolution, then the change to the next one."""

    def __init__(
        self,
        config: AutoencoderConfig,
        *,
        level: int,
        channels_in: int,
        num_blocks: int,
        downsample: Downsample | None = None,
        upsample: Upsample | None = None,
    ) -> None:
        super().__init__()
        channels = config.widths[level]
        has_attention = level in config.attention_levels
        self.block = nn.ModuleList(
            ResBlock(config, channels if i else channels_in, channels) for i in range(num_blocks)
        )
        self.attn = nn.ModuleList(
            AttnBlock(config, channels) for _ in range(num_blocks if has_attention else 0)
        )
        self.downsample = downsample
        self.upsample = upsample
        self.is_checkpointed = False
        """Keep only what enters each block, and compute its inside again on the way back."""

    def forward(self, x: Tensor) -> Tensor:
        """(B, C_in, H, W) -> (B, C_out, H', W')."""
        for i in range(len(self.block)):
            if self.is_checkpointed and torch.is_grad_enabled():
                x = checkpoint(self._blocks_at, x, i, use_reentrant=False)
            else:
                x = self._blocks_at(x, i)
        if self.downsample is not None:
            x = self.downsample(x)
        return x if self.upsample is None else self.upsample(x)

    def _blocks_at(self, x: Tensor, i: int) -> Tensor:
        x = self.block[i](x)
        return self.attn[i](x) if self.attn else x


class Middle(nn.Module):
    """ResBlock, attention, ResBlock at the coarsest resolution."""

    def __init__(self, config: AutoencoderConfig) -> None:
        super().__init__()
        channels = config.widths[-1]
        self.block_1 = ResBlock(config, channels, channels)
        self.attn_1 = AttnBlock(config, channels) if config.middle_attention else None
        self.block_2 = ResBlock(config, channels, channels)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) -> the same shape."""
        x = self.block_1(x)
        if self.attn_1 is not None:
            x = self.attn_1(x)
        out: Tensor = self.block_2(x)
        return out


class Encoder(nn.Module):
    """(B, 3, H, W) -> (B, z_channels, H / f, W / f)."""

    def __init__(self, config: AutoencoderConfig) -> None:
        super().__init__()
        widths = config.widths
        self.conv_in = conv3x3(3, widths[0])
        self.down = nn.ModuleList(
            Level(
                config,
                level=level,
                channels_in=widths[max(level - 1, 0)],
                num_blocks=config.num_res_blocks,
                downsample=Downsample(width) if level < len(widths) - 1 else None,
            )
            for level, width in enumerate(widths)
        )
        self.mid = Middle(config)
        self.norm_out = norm_silu(config, widths[-1])
        self.conv_out = conv3x3(widths[-1], config.z_channels)

    def forward(self, x: Tensor) -> Tensor:
        """Features before the 1x1 convolution to the codebook."""
        x = self.conv_in(x)
        for level in self.down:
            x = level(x)
        out: Tensor = self.conv_out(self.norm_out(self.mid(x)))
        return out


class Decoder(nn.Module):
    """(B, z_channels, H / f, W / f) -> (B, 3, H, W), not squashed to a range."""

    def __init__(self, config: AutoencoderConfig) -> None:
        super().__init__()
        widths = config.widths
        self.conv_in = conv3x3(config.z_channels, widths[-1])
        self.mid = Middle(config)
        # Index 0 is the finest level, as in the published checkpoint.
        self.up = nn.ModuleList(
            Level(
                config,
                level=level,
                channels_in=widths[min(level + 1, len(widths) - 1)],
                num_blocks=config.num_res_blocks + 1,
                upsample=Upsample(width) if level > 0 else None,
            )
            for level, width in enumerate(widths)
        )
        self.norm_out = norm_silu(config, widths[0])
        self.conv_out = conv3x3(widths[0], 3)

    def forward(self, z: Tensor) -> Tensor:
        """Pixels of features after the 1x1 convolution from the codebook."""
        out: Tensor = self.conv_out(self.features(z))
        return out

    def features(self, z: Tensor) -> Tensor:
        """(B, widths[0], H, W), what the last convolution makes pixels of."""
        x = self.mid(self.conv_in(z))
        for level in reversed(self.up):
            x = level(x)
        out: Tensor = self.norm_out(x)
        return out


def initialise(module: nn.Module) -> None:
    """Gives convolutions weights that keep the variance of their input, residual branches less.

    torch's default divides it by three at every convolution, so that a new decoder hardly sees its
    image: on `tiny` 60 steps ended at an L1 of 0.33 with it, of 0.21 with this. Branches are scaled
    by 1 / sqrt(number of blocks), so that their sum does not grow with depth.
    """
    blocks = [part for part in module.modules() if isinstance(part, ResBlock)]
    for part in module.modules():
        if isinstance(part, nn.Conv2d):
            nn.init.normal_(part.weight, 0.0, part.weight[0].numel() ** -0.5)
            if part.bias is not None:
                nn.init.zeros_(part.bias)
    with torch.no_grad():
        for block in blocks:
            block.conv2.weight.mul_(len(blocks) ** -0.5)


def group_norm(config: AutoencoderConfig, channels: int) -> nn.GroupNorm:
    """GroupNorm with the publication's epsilon."""
    return nn.GroupNorm(config.norm_groups, channels, eps=1e-6)


def norm_silu(config: AutoencoderConfig, channels: int) -> NormSiLU:
    """The same, followed by SiLU."""
    return NormSiLU(config.norm_groups, channels, eps=1e-6)


def conv3x3(channels_in: int, channels_out: int) -> nn.Conv2d:
    """3x3 convolution that keeps height and width."""
    return nn.Conv2d(channels_in, channels_out, 3, padding=1)
