"""Region crops beside other ways to cut them, and what region losses add to a step."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.utils.flop_counter import FlopCounterMode

from tests.benchmarks.timing import interleaved, ratio, show
from training.data.batch import RegionBatch
from training.losses.face import face_loss
from training.losses.region_crops import face_canvases, text_banners
from training.losses.separable_resize import resize_matrices
from training.losses.text import text_loss
from training.models.frozen.recognisers import load_face_recogniser, load_text_recogniser
from training.models.tokenizer import CONFIGS, Tokenizer

IMAGES, BANNERS, FACES = 8, 32, 8
SIZE = (32, 128)


def _boxes(generator: torch.Generator, side: int) -> tuple[Tensor, Tensor]:
    """Boxes of 48-220 x 16-64 px in the order of their images, as batches hold them."""
    widths = torch.randint(48, 220, (BANNERS,), generator=generator)
    sizes = torch.stack([widths, torch.randint(16, 64, (BANNERS,), generator=generator)], 1)
    corners = (torch.rand(BANNERS, 2, generator=generator) * (side - sizes)).floor()
    return torch.cat([corners, corners + sizes], 1), torch.arange(BANNERS) * IMAGES // BANNERS


def _loop(images: Tensor, boxes: Tensor, index: Tensor, antialias: bool) -> Tensor:
    crops = []
    for (x0, y0, x1, y1), i in zip(boxes.int().tolist(), index.tolist(), strict=True):
        crop = images[i : i + 1, :, y0:y1, x0:x1]
        crops.append(F.interpolate(crop, SIZE, mode="bilinear", antialias=antialias))
    return torch.cat(crops)


def _grids(images: Tensor, boxes: Tensor) -> Tensor:
    """(R, h, w, 2) normalised sampling positions inside the boxes."""
    height, width = images.shape[2:]
    axes = []
    for low, high, length, count in (
        (boxes[:, 0], boxes[:, 2], width, SIZE[1]),
        (boxes[:, 1], boxes[:, 3], height, SIZE[0]),
    ):
        steps = (torch.arange(count) + 0.5) / count
        at = low[:, None] + steps * (high - low)[:, None]
        at = at.maximum(low[:, None] + 0.5).minimum(high[:, None] - 0.5)
        axes.append(at * 2 / length - 1)
    return torch.stack(
        [
            axes[0][:, None, :].expand(-1, SIZE[0], -1),
            axes[1][:, :, None].expand(-1, -1, SIZE[1]),
        ],
        -1,
    )


def _gathered(images: Tensor, boxes: Tensor, index: Tensor) -> Tensor:
    grids = _grids(images, boxes)
    return F.grid_sample(images[index], grids, padding_mode="border", align_corners=False)


def _stacked(images: Tensor, boxes: Tensor, index: Tensor) -> Tensor:
    """As many grids per image as boxes, one below the other: needs equal numbers per image."""
    grids = _grids(images, boxes).reshape(IMAGES, -1, SIZE[1], 2)
    rows = F.grid_sample(images, grids, padding_mode="border", align_corners=False)
    return rows.reshape(IMAGES, 3, -1, *SIZE).transpose(1, 2).flatten(0, 1)


def _packed(images: Tensor, boxes: Tensor, index: Tensor) -> Tensor:
    """Matrix products per image over all its boxes: needs their numbers on the host."""
    height, width = images.shape[2:]
    rows = resize_matrices(boxes[:, 1], boxes[:, 3], height, SIZE[0])
    columns = resize_matrices(boxes[:, 0], boxes[:, 2], width, SIZE[1])
    counts, banners = torch.bincount(index, minlength=IMAGES).tolist(), []
    for image, row, column in zip(
        images, torch.split(rows, counts), torch.split(columns, counts), strict=True
    ):
        strips = row.flatten(0, 1) @ image.transpose(0, 1).flatten(1)
        strips = strips.view(len(row), -1, width)
        banners.append(torch.bmm(strips, column.transpose(1, 2)))
    return torch.cat(banners).view(-1, SIZE[0], 3, SIZE[1]).transpose(1, 2)


def bench_region_crops() -> None:
    """32 banners of 8 images and 8 faces, forward and backward, at 256^2 and 512^2 (B2)."""
    for side in (256, 512):
        _bench_crops(side)


def _bench_crops(side: int) -> None:
    generator = torch.Generator().manual_seed(0)
    images = torch.rand(IMAGES, 3, side, side, generator=generator).requires_grad_()
    boxes, index = _boxes(generator, side)
    contestants: dict[str, dict[str, Callable[[Tensor, Tensor, Tensor], Tensor]]] = {
        "text_banners, exact": {
            "exact: loop of crop, interpolate": partial(_loop, antialias=True),
            "exact: products packed per image": _packed,
            "text_banners, exact": text_banners,
        },
        "text_banners, bilinear": {
            "bilinear: loop of crop, interpolate": partial(_loop, antialias=False),
            "bilinear: gathered grid_sample": _gathered,
            "bilinear: grids stacked per image": _stacked,
            "text_banners, bilinear": partial(text_banners, sampling="bilinear"),
        },
    }

    def run(cut: Callable[[Tensor, Tensor, Tensor], Tensor], where: Tensor, of: Tensor) -> None:
        torch.autograd.grad(cut(images, where, of).sum(), images)

    runs: dict[str, Callable[[], object]] = {}
    for cuts in contestants.values():
        with torch.no_grad():
            expected, *others = (cut(images, boxes, index) for cut in cuts.values())
        for name, other in zip(list(cuts)[1:], others, strict=True):
            gap = float((other - expected).abs().max())
            assert gap < 2e-3, (name, gap)
        runs |= {name: partial(run, cut, boxes, index) for name, cut in cuts.items()}
    theta = torch.tensor([[0.6, 0.1, 0.1], [-0.1, 0.6, -0.1]]).expand(FACES, 2, 3)
    runs["face_canvases"] = partial(run, face_canvases, theta, torch.arange(FACES))
    timings = interleaved(runs, rounds=5, repeat=2)
    show(f"{BANNERS} banners (or {FACES} faces) of {IMAGES} images of {side}^2", timings)
    for ours, cuts in contestants.items():
        for name in cuts:
            if name != ours:
                print(f"  {name} over ours: {ratio(timings, name, ours)}")


def bench_region_losses() -> None:
    """What text and face loss add to a step of `tiny`, beside their share of its FLOPs (B3)."""
    torch.manual_seed(0)
    tokenizer = Tokenizer(CONFIGS["tiny"])
    text_net, face_net = load_text_recogniser("ppocr_v6_small"), load_face_recogniser("sface")
    generator = torch.Generator().manual_seed(0)
    x = torch.rand(IMAGES, 3, 128, 128, generator=generator) * 2 - 1
    exact = _regions(*_boxes(generator, 256), torch.arange(FACES))
    padded = _padded(exact)

    def step(*losses: Callable[[Tensor], Tensor]) -> None:
        x_hat = tokenizer(x).x_hat
        total = (x_hat - x).abs().mean()
        for loss in losses:
            total = total + loss(x_hat)
        total.backward()

    def text(regions: RegionBatch) -> Callable[[Tensor], Tensor]:
        return lambda x_hat: text_loss(x, x_hat, regions, text_net)

    def face(regions: RegionBatch) -> Callable[[Tensor], Tensor]:
        return lambda x_hat: face_loss(x, x_hat, regions, face_net)

    steps: dict[str, Callable[[], None]] = {
        "without": step,
        "with text": lambda: step(text(exact)),
        "with faces": lambda: step(face(exact)),
        "with both": lambda: step(text(exact), face(exact)),
        "with both, padded to twice as many": lambda: step(text(padded), face(padded)),
    }
    flops = {}
    for name, run in steps.items():
        with FlopCounterMode(display=False) as counter:
            run()
        flops[name] = counter.get_total_flops()
    timings = interleaved(steps)
    show(f"Step of tiny, {IMAGES} images of 128^2, {BANNERS} texts, {FACES} faces", timings)
    for name in steps:
        floor = flops[name] / flops["without"]
        measured = ratio(timings, name, "without")
        print(f"  {name:36s} {flops[name] / 1e9:8.1f} GFLOP, {floor:.2f}x; measured {measured}")


def _regions(boxes: Tensor, index: Tensor, faces: Tensor) -> RegionBatch:
    return RegionBatch(
        text_boxes=boxes / 2,
        text_image=index,
        text_weight=torch.full((len(boxes),), 0.05),
        face_theta=torch.tensor([[0.6, 0.0, 0.1], [0.0, 0.6, -0.1]]).repeat(len(faces), 1, 1),
        face_image=faces,
        face_weight=torch.full((len(faces),), 0.1),
    )


def _padded(regions: RegionBatch) -> RegionBatch:
    """Twice as many rows; those added have weight 0."""
    return RegionBatch(*(torch.cat([field, torch.zeros_like(field)]) for field in regions))
