"""The trainer's parts: region crops and a loop, quantizer and the dense form, region losses."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from tests.benchmarks.timing import interleaved, ratio, show
from training.data.batch import RegionBatch
from training.losses.face import face_loss
from training.losses.region_crops import text_banners
from training.losses.text import text_loss
from training.models.frozen.recognisers import load_face_recogniser, load_text_recogniser
from training.models.quantizer import EmaQuantizer, QuantizerConfig
from training.models.tokenizer import CONFIGS, Tokenizer

IMAGES, SIDE = 8, 256
BANNERS, FACES = 32, 8


def _boxes(generator: torch.Generator, count: int) -> tuple[Tensor, Tensor]:
    sizes = torch.stack(
        [
            torch.randint(48, 220, (count,), generator=generator),
            torch.randint(16, 64, (count,), generator=generator),
        ],
        dim=1,
    )
    corners = (torch.rand(count, 2, generator=generator) * (SIDE - sizes)).floor()
    index = torch.arange(count) % IMAGES
    return torch.cat([corners, corners + sizes], dim=1), index


def _loop(images: Tensor, boxes: Tensor, index: Tensor) -> Tensor:
    crops = []
    for (x0, y0, x1, y1), i in zip(boxes.int().tolist(), index.tolist(), strict=True):
        crop = images[i : i + 1, :, y0:y1, x0:x1]
        crops.append(F.interpolate(crop, (32, 128), mode="bilinear", antialias=True))
    return torch.cat(crops)


def bench_region_crops() -> None:
    """32 antialiased banners of 8 images at 256 x 256, forward and backward."""
    generator = torch.Generator().manual_seed(0)
    images = torch.rand(IMAGES, 3, SIDE, SIDE, generator=generator).requires_grad_()
    boxes, index = _boxes(generator, BANNERS)
    with torch.no_grad():
        gap = text_banners(images, boxes, index) - _loop(images, boxes, index)
    difference = float(gap.abs().max())
    assert difference < 1e-4, difference

    def ours() -> None:
        torch.autograd.grad(text_banners(images, boxes, index).sum(), images)

    def theirs() -> None:
        torch.autograd.grad(_loop(images, boxes, index).sum(), images)

    timings = interleaved(
        {"crop and interpolate in a loop": theirs, "text_banners": ours}, repeat=5
    )
    show(f"{BANNERS} banners of {IMAGES} images, forward + backward", timings)
    print(
        f"  loop over ours: {ratio(timings, 'crop and interpolate in a loop', 'text_banners')}, "
        f"largest difference {difference:.1e}"
    )


def bench_quantizer() -> None:
    """Nearest codes and statistics for 4,096 latents, 16,384 codes of 256 dimensions."""
    quantizer = EmaQuantizer(QuantizerConfig())
    generator = torch.Generator().manual_seed(0)
    z = torch.randn(16, 256, 16, 16, generator=generator)
    flat = F.normalize(z, dim=1).movedim(1, -1).reshape(-1, 256)

    def ours() -> None:
        quantizer(z)
        quantizer.update_codebook(generator)

    def dense() -> None:
        codes = quantizer.codes()
        distances = flat.square().sum(1, keepdim=True) - 2 * flat @ codes.T + codes.square().sum(1)
        one_hot = F.one_hot(distances.argmin(1), len(codes)).to(flat)
        one_hot.sum(0)
        one_hot.T @ flat

    timings = interleaved({"N x K distances and one-hot": dense, "EmaQuantizer": ours}, rounds=5)
    show("Quantizer, 4,096 latents, K = 16,384, d = 256", timings)
    print(f"  dense over ours: {ratio(timings, 'N x K distances and one-hot', 'EmaQuantizer')}")


def bench_region_losses() -> None:
    """What text and face loss cost beside the tiny tokenizer's own forward and backward."""
    torch.manual_seed(0)
    tokenizer = Tokenizer(CONFIGS["tiny"])
    text_net, face_net = load_text_recogniser("ppocr_v6_small"), load_face_recogniser("sface")
    generator = torch.Generator().manual_seed(0)
    x = torch.rand(IMAGES, 3, 128, 128, generator=generator) * 2 - 1
    boxes, index = _boxes(generator, BANNERS)
    theta = torch.tensor([[0.6, 0.0, 0.1], [0.0, 0.6, -0.1]]).expand(FACES, 2, 3)
    regions = RegionBatch(
        text_boxes=boxes / 2,
        text_image=index,
        text_weight=torch.full((BANNERS,), 0.05),
        face_theta=theta,
        face_image=torch.arange(FACES) % IMAGES,
        face_weight=torch.full((FACES,), 0.1),
    )
    x_hat = x.roll(1, 3).requires_grad_()

    def step() -> None:
        (tokenizer(x).x_hat - x).abs().mean().backward()

    timings = interleaved(
        {
            "tokenizer alone, batch 8 at 128": step,
            f"text loss, {BANNERS} banners": lambda: text_loss(
                x, x_hat, regions, text_net
            ).backward(),
            f"face loss, {FACES} faces": lambda: face_loss(x, x_hat, regions, face_net).backward(),
        }
    )
    show("Region losses, forward + backward", timings)
