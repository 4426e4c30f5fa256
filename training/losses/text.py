"""Text loss: reconstructed words must look the same to a frozen text recogniser."""

from __future__ import annotations

import torch
from torch import Tensor

from training.data.batch import RegionBatch
from training.losses.feature_distance import ChannelReduction, FeatureExtractor, feature_l1
from training.losses.region_crops import BANNER_SIZE, BannerSampling, banner_crop
from training.losses.region_weights import RegionWeighting, region_weights


def text_loss(
    x: Tensor,
    x_hat: Tensor,
    regions: RegionBatch,
    net: FeatureExtractor,
    *,
    size: tuple[int, int] = BANNER_SIZE,
    channels: ChannelReduction = "sum",
    sampling: BannerSampling = "antialiased",
    weighting: RegionWeighting = "area",
) -> Tensor:
    """L_text = 1 / B * sum_i w_i l_i over the text regions of the batch, l_i of `feature_l1`.

    The weights w_i = area of the box / area of the image are not made to sum to 1 (section 3.2.1
    of the paper), so an image with little text is asked little. Batches without a region cost 0.

    Args:
        x: (B, 3, H, W) in [-1, 1], the original; boxes are of the original alone.
        x_hat: (B, 3, H, W), the reconstruction; the only way for gradients.
        regions: boxes, image indices and weights; a weight of 0 takes a region out altogether,
            even where its box or its pixels are not finite.
        net: the frozen recogniser.
        size: (h, w) of the banners the boxes are resized to.
        channels: see `feature_l1`.
        sampling: of the banners, see `BannerSampling`.
        weighting: see `RegionWeighting`.

    Returns:
        0-d, at least 0.
    """
    if not len(regions.text_boxes):
        return x_hat.new_zeros(())
    is_used = regions.text_weight > 0
    # Not a tensor of a list: that would be a copy from the host, which waits.
    whole = torch.zeros_like(regions.text_boxes)
    whole[:, 2], whole[:, 3] = x.shape[3], x.shape[2]
    boxes = torch.where(is_used[:, None], regions.text_boxes, whole)
    crop = banner_crop(x, boxes, regions.text_image, size, sampling)
    # Crops are linear in the pixels, so blanking a crop also stops every gradient into its image.
    banners, banners_hat = (
        torch.where(is_used[:, None, None, None], crop(images), 0.0)
        for images in (x.detach(), x_hat)
    )
    distances = feature_l1(banners, banners_hat, net, channels)
    weights = region_weights(regions.text_weight, weighting)
    return (weights * distances).sum() / len(x)
