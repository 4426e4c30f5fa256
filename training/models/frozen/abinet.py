"""ABINet's vision model (Fang et al. 2021): the text recogniser of the paper's text loss.

Strides, widths, numbers of blocks and layers, and the names of all parts were compared with the
sources of the official code (FangShancheng/ABINet); no official checkpoint was at hand. Layers as
far as `layer5` depend on resnet45 alone. Positional encodings are computed, never loaded.

The usual input is (N, 3, 32, 128), RGB in [0, 1] minus ImageNet's mean, over its deviation.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from annotations_schema.weights import WeightsCard
from training.models.frozen.batch_norm import fold_batch_norm
from training.models.frozen.state_file import load_needed, read_state

ABINET_PARTS = (
    "stem",  # 32 x 32 x 128
    "layer1",  # 32 x 16 x 64
    "layer2",  # 64 x 16 x 64
    "layer3",  # 128 x 8 x 32
    "layer4",  # 256 x 8 x 32
    "layer5",  # 512 x 8 x 32
    "transformer",  # 512 x 8 x 32
    "logits",  # 26 positions x 37 characters: the null character, a to z, 0 to 9
)
"""What the network computes, in order; maps are channels x height x width."""

_STEM = 32
_STAGES = ((3, 32, 2), (4, 64, 1), (6, 128, 2), (6, 256, 1), (3, 512, 1))  # blocks, width, stride
_WIDTH, _HEADS, _HIDDEN, _ENCODER_LAYERS = 512, 8, 2048, 3
_GRID = (8, 32)
_KEY_WIDTH, _CHARACTERS, _CLASSES = 64, 26, 37


class AbinetVision(nn.Module):
    """The vision model as far as the deepest tap; parameters have their official names."""

    def __init__(self, taps: Sequence[str] = ("logits",)) -> None:
        """Builds it with random weights; `taps` of `ABINET_PARTS`, at least one."""
        super().__init__()
        self.taps = tuple(taps)
        depth = max(ABINET_PARTS.index(tap) for tap in taps)
        self.backbone = _Backbone(min(depth, len(_STAGES)), depth > len(_STAGES))
        self.is_whole = depth == len(ABINET_PARTS) - 1
        if self.is_whole:
            self.attention = _PositionAttention()
            self.cls = nn.Linear(_WIDTH, _CLASSES)

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        """(N, 3, H, W) -> the taps, in their order; H, W are 32, 128 from `transformer` on."""
        parts = self.backbone(x)
        if self.is_whole:
            parts["logits"] = self.cls(self.attention(parts["transformer"]))
        return tuple(parts[tap] for tap in self.taps)


def load_abinet(card: WeightsCard, file: Path, taps: Sequence[str]) -> AbinetVision:
    """The frozen network of a checkpoint of ABINet, or of its vision model alone.

    Raises:
        WeightsError: the file is no such checkpoint, or what the taps need is not in it.
    """
    state = read_state(card, file, ("backbone.resnet.conv1.weight", "resnet.conv1.weight"))
    if "resnet.conv1.weight" in state:
        state = {f"backbone.{name}": tensor for name, tensor in state.items()}
    net = AbinetVision(taps)
    load_needed(net, state, card, file)
    fold_batch_norm(net)
    return net.eval().requires_grad_(False)


class _Backbone(nn.Module):
    positions: Tensor

    def __init__(self, num_stages: int, has_transformer: bool) -> None:
        super().__init__()
        self.resnet = _ResNet45(num_stages)
        self.has_transformer = has_transformer
        if has_transformer:
            self.transformer = _Encoder()
            encoding = sinusoids(math.prod(_GRID), _WIDTH)
            self.register_buffer("positions", encoding, persistent=False)

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        parts: dict[str, Tensor] = self.resnet(x)
        if self.has_transformer:
            features = parts["layer5"]
            sequence = features.flatten(2).transpose(1, 2) + self.positions
            parts["transformer"] = (
                self.transformer(sequence).transpose(1, 2).reshape(features.shape)
            )
        return parts


class _ResNet45(nn.Module):
    def __init__(self, num_stages: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, _STEM, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(_STEM)
        self.stages = tuple(f"layer{i + 1}" for i in range(num_stages))
        width = _STEM
        for name, (blocks, out, stride) in zip(self.stages, _STAGES, strict=False):
            first = _Block(width, out, stride)
            self.add_module(
                name, nn.Sequential(first, *(_Block(out, out, 1) for _ in range(1, blocks)))
            )
            width = out

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        parts = {"stem": F.relu(self.bn1(self.conv1(x)))}
        x = parts["stem"]
        for name in self.stages:
            x = parts[name] = self.get_submodule(name)(x)
        return parts


class _Block(nn.Module):
    def __init__(self, width: int, out: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(width, out, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(out)
        # The stride stands in the 3 x 3 convolution, unlike in other residual networks.
        self.conv2 = nn.Conv2d(out, out, 3, stride, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(out)
        self.downsample = (
            nn.Sequential(nn.Conv2d(width, out, 1, stride, bias=False), nn.BatchNorm2d(out))
            if stride != 1 or width != out
            else nn.Identity()
        )

    def forward(self, x: Tensor) -> Tensor:
        y = F.relu(self.bn1(self.conv1(x)))
        return F.relu(self.bn2(self.conv2(y)) + self.downsample(x))


class _Encoder(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.ModuleList(_EncoderLayer() for _ in range(_ENCODER_LAYERS))

    def forward(self, x: Tensor) -> Tensor:
        for layer in self.layers:
            x = layer(x)
        return x


class _SelfAttention(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.in_proj_weight = nn.Parameter(torch.empty(3 * _WIDTH, _WIDTH))
        self.in_proj_bias = nn.Parameter(torch.zeros(3 * _WIDTH))
        self.out_proj = nn.Linear(_WIDTH, _WIDTH)
        nn.init.xavier_uniform_(self.in_proj_weight)

    def forward(self, x: Tensor) -> Tensor:
        qkv = F.linear(x, self.in_proj_weight, self.in_proj_bias)
        # (N, positions, 3, heads, width) -> three of (N, heads, positions, width).
        qkv = qkv.reshape(*x.shape[:2], 3, _HEADS, -1)
        q, k, v = qkv.permute(2, 0, 3, 1, 4).unbind()
        mixed = F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2)
        out: Tensor = self.out_proj(mixed)
        return out


class _EncoderLayer(nn.Module):
    """Post-norm, as in the first transformers.

    Not torch's own layer: that computes by another kernel where no gradient is asked for, so an
    image would differ from itself.
    """

    def __init__(self) -> None:
        super().__init__()
        self.self_attn = _SelfAttention()
        self.linear1 = nn.Linear(_WIDTH, _HIDDEN)
        self.linear2 = nn.Linear(_HIDDEN, _WIDTH)
        self.norm1 = nn.LayerNorm(_WIDTH)
        self.norm2 = nn.LayerNorm(_WIDTH)

    def forward(self, x: Tensor) -> Tensor:
        mixed = self.norm1(x + self.self_attn(x))
        out: Tensor = self.norm2(mixed + self.linear2(F.relu(self.linear1(mixed))))
        return out


class _PositionAttention(nn.Module):
    """(N, 512, 8, 32) -> (N, 26, 512): what stands at each position of the word."""

    positions: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.k_encoder = nn.Sequential(
            _conv_norm_relu(_WIDTH, _KEY_WIDTH, stride=(1, 2)),
            *(_conv_norm_relu(_KEY_WIDTH, _KEY_WIDTH, stride=(2, 2)) for _ in range(3)),
        )
        self.k_decoder = nn.Sequential(
            *(_grown(_KEY_WIDTH, nn.Upsample(scale_factor=2)) for _ in range(3)),
            _grown(_WIDTH, nn.Upsample(size=_GRID)),
        )
        self.project = nn.Linear(_WIDTH, _WIDTH)
        self.register_buffer("positions", sinusoids(_CHARACTERS, _WIDTH), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        keys, skipped = x, []
        for layer in self.k_encoder:
            keys = layer(keys)
            skipped.append(keys)
        *growing, last = self.k_decoder
        for layer, skip in zip(growing, reversed(skipped[:-1]), strict=True):
            keys = layer(keys) + skip
        keys = last(keys).flatten(2)
        queries: Tensor = self.project(self.positions)
        scores: Tensor = queries @ keys / math.sqrt(_WIDTH)
        return scores.softmax(-1) @ x.flatten(2).transpose(1, 2)


def _conv_norm_relu(width: int, out: int, stride: tuple[int, int]) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(width, out, 3, stride, padding=1), nn.BatchNorm2d(out), nn.ReLU()
    )


def _grown(out: int, upsample: nn.Upsample) -> nn.Sequential:
    return nn.Sequential(upsample, *_conv_norm_relu(_KEY_WIDTH, out, stride=(1, 1)))


def sinusoids(length: int, width: int) -> Tensor:
    """(length, width) positional encoding: sines in even columns, cosines in odd ones."""
    rates = torch.exp(torch.arange(0, width, 2) * (-math.log(10_000.0) / width))
    angles = torch.arange(length)[:, None] * rates
    return torch.stack([angles.sin(), angles.cos()], -1).flatten(1)
