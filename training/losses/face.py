"""Face loss: reconstructed faces, aligned by the original's landmarks, must be the same person."""

from __future__ import annotations

import torch
from torch import Tensor

from training.data.batch import RegionBatch
from training.losses.feature_distance import ChannelReduction, FeatureExtractor, feature_l1
from training.losses.region_crops import CANVAS_SIZE, canvas_crop
from training.losses.region_weights import RegionWeighting, region_weights


def face_loss(
    x: Tensor,
    x_hat: Tensor,
    regions: RegionBatch,
    net: FeatureExtractor,
    *,
    size: tuple[int, int] = CANVAS_SIZE,
    channels: ChannelReduction = "sum",
    weighting: RegionWeighting = "area",
) -> Tensor:
    """L_face = 1 / B * sum_j w_j l_j over the faces of the batch, l_j of `feature_l1`.

    Both canvases are warped by the similarity transform of the original's landmarks. Weights are
    area fractions as in the text loss, not made to sum to 1. Batches without a face cost 0.

    Args:
        x: (B, 3, H, W) in [-1, 1], the original.
        x_hat: (B, 3, H, W), the reconstruction; the only way for gradients.
        regions: maps, image indices and weights; a weight of 0 takes a face out altogether, even
            where its map or its pixels are not finite.
        net: the frozen face recogniser.
        size: (h, w) of the canvas that the maps are for.
        channels: see `feature_l1`.
        weighting: see `RegionWeighting`.

    Returns:
        0-d, at least 0.
    """
    if not len(regions.face_theta):
        return x_hat.new_zeros(())
    is_used = regions.face_weight > 0
    whole = torch.eye(2, 3, dtype=regions.face_theta.dtype, device=regions.face_theta.device)
    theta = torch.where(is_used[:, None, None], regions.face_theta, whole)
    crop = canvas_crop(x, theta, regions.face_image, size)
    # Warps are linear in the pixels, so blanking a canvas also stops every gradient into its image.
    canvases, canvases_hat = (
        torch.where(is_used[:, None, None, None], crop(images), 0.0)
        for images in (x.detach(), x_hat)
    )
    distances = feature_l1(canvases, canvases_hat, net, channels)
    weights = region_weights(regions.face_weight, weighting)
    return (weights * distances).sum() / len(x)
