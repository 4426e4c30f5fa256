"""Perceptual distances as judges of pictures: LPIPS, or a VGG16 distance that is not LPIPS."""

from __future__ import annotations

import importlib.metadata
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor

from annotations_schema.errors import UsageError, WeightsError
from annotations_schema.weights import resolve
from training.data.batch import to_model_range
from training.evaluation.config import NONE, PERCEPTUAL_NETS
from training.evaluation.networks import (
    NetworkRecord,
    library_download,
    network_record,
    published,
)
from training.models.frozen.cards import CARDS
from training.models.frozen.perceptual import (
    PerceptualDistance,
    load_perceptual,
    perceptual_file,
)

LPIPS, VGG16_DISTANCE = "LPIPS", "VGG16 distance"

VGG16_KERAS = CARDS["vgg16_keras"]
LPIPS_CARD = replace(
    CARDS["lpips"],
    hint="give torchvision's vgg16-397923af.pth as --perceptual-weights, or ask for its download "
    "with --perceptual-download",
)
_PUBLISHED_START = "397923af"  # of the sha256, from the published name


@dataclass(frozen=True, kw_only=True, slots=True)
class PerceptualNet:
    """A perceptual distance, and the name that its numbers may carry."""

    record: NetworkRecord
    metric: str
    """`LPIPS`, or `VGG16_DISTANCE` where network or channel weights are others."""
    distance: PerceptualDistance
    device: str

    def maps(self, picture: Tensor) -> tuple[Tensor, ...]:
        """(1, H, W, 3) uint8 -> the feature maps that are compared, (1, C, h, w) each."""
        return tuple(self.distance.net(to_model_range(picture.numpy()).to(self.device)))


def load_perceptual_net(
    name: str, weights: Path | None = None, *, download: bool = False, device: str = "cpu"
) -> PerceptualNet:
    """The distance `vgg16_keras` (embedded) or `lpips` (by path or download).

    Args:
        name: one of `PERCEPTUAL_NETS`.
        weights: the file, where it is not an installed package's.
        download: for lpips without a path: let torchvision fetch its file.
        device: where the network runs.

    Raises:
        UsageError: the name is unknown.
        WeightsError: the file is absent, is not the right one, or cannot be fetched.
    """
    if name not in PERCEPTUAL_NETS:
        known = ", ".join((*PERCEPTUAL_NETS, NONE))
        raise UsageError(f"perceptual net '{name}' does not exist; choose one of {known}")
    if name == "lpips":
        return _lpips(weights, download, device)
    return PerceptualNet(
        record=vgg16_record(weights, "all five layers of LPIPS, unweighted: not LPIPS"),
        metric=VGG16_DISTANCE,
        distance=load_perceptual(name, weights).to(device),
        device=device,
    )


def vgg16_record(weights: Path | None, note: str) -> NetworkRecord:
    """The record of the embedded VGG16 trunk."""
    return network_record(
        VGG16_KERAS,
        weights,
        library="torch",
        library_version=torch.__version__,
        is_published_protocol=False,
        note=note,
    )


def _lpips(weights: Path | None, download: bool, device: str) -> PerceptualNet:
    if weights is None and not download:
        raise WeightsError(f"{LPIPS_CARD.name}: no weights are installed; {LPIPS_CARD.hint}")
    if weights is None:
        with library_download(LPIPS_CARD, "--perceptual-weights"):
            weights = perceptual_file("lpips", download=True)
    distance = load_perceptual("lpips", resolve(LPIPS_CARD, weights)).to(device)
    record = network_record(
        LPIPS_CARD,
        weights,
        library="lpips",
        library_version=importlib.metadata.version("lpips"),
        is_published_protocol=True,
        note="VGG16, version 0.1",
    )
    checked = published(record, _PUBLISHED_START)
    return PerceptualNet(
        record=checked,
        metric=LPIPS if checked.is_published_protocol else VGG16_DISTANCE,
        distance=distance,
        device=device,
    )
