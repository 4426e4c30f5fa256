"""Frechet distance between the features of a set of pictures and of their reconstructions.

With torch-fidelity's port of the InceptionV3 of Heusel et al. (2017) this is rFID. With any other
features it is a Frechet distance that carries the network's name: its numbers are on another scale
and are never called rFID. Statistics and distance are torch-fidelity's own.
"""

from __future__ import annotations

import importlib.metadata
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from annotations_schema.errors import UsageError, WeightsError
from annotations_schema.weights import WeightsCard, resolve
from training.data.batch import to_model_range
from training.evaluation.config import FRECHET_NETS, NONE
from training.evaluation.networks import (
    NetworkRecord,
    library_download,
    network_record,
    published,
)
from training.evaluation.perceptual import vgg16_record
from training.models.frozen.perceptual import load_perceptual
from training.models.frozen.state_file import read_state

Features = NDArray[np.float32]

RFID, FRECHET = "rFID", "FD"
MIN_IMAGES = 2
"""A single picture has no covariance."""

INCEPTION = WeightsCard(
    name="inception_v3",
    role="features of sets of pictures, evaluation (rFID)",
    file="weights-inception-2015-12-05-6726825d.pth",
    sha256=None,
    licence="Apache-2.0",
    input="RGB in [0, 255], any size: resized to 299 x 299 as TensorFlow 1 does",
    package=None,
    attribute=None,
    hint="give torch-fidelity's weights-inception-2015-12-05-6726825d.pth as --fid-weights, or ask "
    "for its download with --fid-download",
)
_PUBLISHED_START = "6726825d"  # of the sha256, from the published name
_INCEPTION_LAYER = "2048"
_VGG16_LAYER = "relu5_3"


@dataclass(frozen=True, kw_only=True, slots=True)
class FrechetNet:
    """A network whose features make a Frechet distance, and the name its numbers may carry."""

    record: NetworkRecord
    metric: str
    """`RFID`, or `FRECHET` where the features are not those of the published metric."""
    num_features: int
    features: Callable[[Tensor], Tensor]
    """(1, H, W, 3) uint8 RGB -> (1, num_features) float32."""
    is_last_maps: bool
    """Whether the features are the pooled last maps of `perceptual.load_perceptual_net`, where that
    has the same weights."""


def load_frechet_net(
    name: str, weights: Path | None = None, *, download: bool = False, device: str = "cpu"
) -> FrechetNet:
    """The features `vgg16_keras` (embedded) or `inception_v3` (by path or download).

    Args:
        name: one of `FRECHET_NETS`.
        weights: the file, where it is not an installed package's.
        download: for inception_v3 without a path: let torch fetch torch-fidelity's file.
        device: where the network runs.

    Raises:
        UsageError: the name is unknown.
        WeightsError: the file is absent, is not the right one, or cannot be fetched.
    """
    if name not in FRECHET_NETS:
        known = ", ".join((*FRECHET_NETS, NONE))
        raise UsageError(f"fid net '{name}' does not exist; choose one of {known}")
    if name == "inception_v3":
        return _inception(_downloaded() if download and weights is None else weights, device)
    net = load_perceptual("vgg16_keras", weights, layers=(_VGG16_LAYER,)).net.to(device)
    record = vgg16_record(weights, "mean over positions of the last maps: not rFID")
    return FrechetNet(
        record=replace(record, name=f"{record.name} {_VGG16_LAYER}"),
        metric=FRECHET,
        num_features=512,
        is_last_maps=True,
        features=lambda picture: pooled(net(to_model_range(picture.numpy()).to(device))[-1]),
    )


def pooled(maps: Tensor) -> Tensor:
    """(B, C, h, w) -> (B, C), the mean over positions."""
    return maps.mean((2, 3))


def frechet_distance(features: Features, features_hat: Features) -> float | None:
    """The Frechet distance of two sets of features, (N, D) float32 each; None for N < 2.

    With N <= D the covariances have no full rank: the value is then biased, and comparable only
    between systems on the same pictures.
    """
    if min(len(features), len(features_hat)) < MIN_IMAGES:
        return None
    if np.array_equal(features, features_hat):
        return 0.0  # by definition; the eigenvalues' last digits would say otherwise
    # Imported here: it brings torchvision, which an evaluation without this metric does without.
    from torch_fidelity import metric_fid

    statistics = [
        metric_fid.fid_features_to_statistics(torch.from_numpy(found).to(torch.float64))
        for found in (features, features_hat)
    ]
    metric = metric_fid.fid_statistics_to_metric(*statistics, verbose=False)
    return float(metric[metric_fid.KEY_METRIC_FID])


def _inception(weights: Path | None, device: str) -> FrechetNet:
    file = resolve(INCEPTION, weights)
    # torch-fidelity unpickles whatever a file holds; what gets past this is plain tensors.
    read_state(INCEPTION, file, ("Conv2d_1a_3x3.conv.weight",))
    from torch_fidelity.feature_extractor_inceptionv3 import FeatureExtractorInceptionV3

    try:
        net: nn.Module = FeatureExtractorInceptionV3(
            "inception-v3-compat", [_INCEPTION_LAYER], feature_extractor_weights_path=str(file)
        )
    except RuntimeError as error:  # what load_state_dict raises
        reason = " ".join(str(error).split())[:160]
        raise WeightsError(
            f"{INCEPTION.name}: {file} does not fit ({reason}); {INCEPTION.hint}"
        ) from error
    net.to(device)
    record = network_record(
        INCEPTION,
        file,
        library="torch-fidelity",
        library_version=importlib.metadata.version("torch-fidelity"),
        is_published_protocol=True,
        note="FID InceptionV3 of 2015-12-05, layer 2048",
    )
    checked = published(record, _PUBLISHED_START)
    return FrechetNet(
        record=checked,
        metric=RFID if checked.is_published_protocol else FRECHET,
        num_features=int(_INCEPTION_LAYER),
        is_last_maps=False,
        features=lambda picture: net(picture.permute(0, 3, 1, 2).to(device))[0],
    )


def _downloaded() -> Path:
    """torch-fidelity's file in torch's cache; fetched where it is not there."""
    from torch_fidelity.feature_extractor_inceptionv3 import URL_INCEPTION_V3

    with library_download(INCEPTION, "--fid-weights"):
        torch.hub.load_state_dict_from_url(
            URL_INCEPTION_V3, check_hash=True, weights_only=True, map_location="cpu"
        )
    return Path(torch.hub.get_dir()) / "checkpoints" / INCEPTION.file
