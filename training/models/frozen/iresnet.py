"""IResNet50 (ArcFace, Deng et al. 2019): the face recogniser of the paper's face loss.

Layers and names were compared with the sources of insightface's `arcface_torch`, whose
`backbone.pth` is to load; none was at hand. Blocks of norm, convolution, norm, PReLU, strided
convolution, norm, and nothing behind the addition.

The usual input is (N, 3, 112, 112), RGB in [-1, 1], aligned to the ArcFace template.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from torch import Tensor, nn

from annotations_schema.weights import WeightsCard
from training.models.frozen.batch_norm import fold_batch_norm
from training.models.frozen.state_file import load_needed, read_state

IRESNET_PARTS = (
    "layer1",  # 64 x 56 x 56
    "layer2",  # 128 x 28 x 28
    "layer3",  # 256 x 14 x 14
    "layer4",  # 512 x 7 x 7
    "embedding",  # 512, not of unit length
)
"""What the network computes, in order; maps are channels x height x width."""

_STAGES = ((3, 64), (4, 128), (14, 256), (3, 512))  # blocks, width; each begins with a stride of 2
_FINAL_POSITIONS = 7 * 7
_EMBEDDING = 512


class IResNet50(nn.Module):
    """The network as far as the deepest tap; parameters have their official names."""

    def __init__(self, taps: Sequence[str] = ("embedding",)) -> None:
        """Builds it with random weights; `taps` of `IRESNET_PARTS`, at least one."""
        super().__init__()
        self.taps = tuple(taps)
        depth = max(IRESNET_PARTS.index(tap) for tap in taps)
        self.conv1 = nn.Conv2d(3, 64, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(64)
        self.prelu = nn.PReLU(64)
        width = 64
        self.stages = IRESNET_PARTS[: min(depth + 1, len(_STAGES))]
        for name, (blocks, out) in zip(self.stages, _STAGES, strict=False):
            first = _Block(width, out, 2)
            self.add_module(
                name, nn.Sequential(first, *(_Block(out, out, 1) for _ in range(1, blocks)))
            )
            width = out
        self.is_whole = depth == len(_STAGES)
        if self.is_whole:
            self.bn2 = nn.BatchNorm2d(width)
            self.fc = nn.Linear(width * _FINAL_POSITIONS, _EMBEDDING)
            self.features = nn.BatchNorm1d(_EMBEDDING)

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        """(N, 3, H, W) -> the taps, in their order; H, W are 112, 112 for the embedding."""
        parts = {}
        x = self.prelu(self.bn1(self.conv1(x)))
        for name in self.stages:
            x = parts[name] = self.get_submodule(name)(x)
        if self.is_whole:
            parts["embedding"] = self.features(self.fc(self.bn2(x).flatten(1)))
        return tuple(parts[tap] for tap in self.taps)


def load_iresnet50(card: WeightsCard, file: Path, taps: Sequence[str]) -> IResNet50:
    """The frozen network of a checkpoint.

    Raises:
        WeightsError: the file is no such checkpoint, or what the taps need is not in it.
    """
    net = IResNet50(taps)
    load_needed(net, read_state(card, file, ("layer1.0.prelu.weight",)), card, file)
    fold_batch_norm(net)
    return net.eval().requires_grad_(False)


class _Block(nn.Module):
    def __init__(self, width: int, out: int, stride: int) -> None:
        super().__init__()
        self.bn1 = nn.BatchNorm2d(width)
        self.conv1 = nn.Conv2d(width, out, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(out)
        self.prelu = nn.PReLU(out)
        self.conv2 = nn.Conv2d(out, out, 3, stride, padding=1, bias=False)
        self.bn3 = nn.BatchNorm2d(out)
        self.downsample = (
            nn.Sequential(nn.Conv2d(width, out, 1, stride, bias=False), nn.BatchNorm2d(out))
            if stride != 1
            else nn.Identity()
        )

    def forward(self, x: Tensor) -> Tensor:
        y = self.prelu(self.bn2(self.conv1(self.bn1(x))))
        out: Tensor = self.bn3(self.conv2(y)) + self.downsample(x)
        return out
