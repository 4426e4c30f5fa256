"""Held-out pictures beside what each arm makes of them, as one image."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image as PillowImage
from PIL import ImageDraw, ImageFont

from annotations_schema.layout import atomic_write
from training.data.manifest import ManifestDataset
from training.evaluation.protocol import Framing, frame
from training.evaluation.tokenizers import load_tokenizers

_HEAD_PX, _GAP_PX, _FONT_PX = 26, 4, 15
_WINDOW_IN_BOXES, _LEAST_WINDOW_PX = 1.3, 48


def draw_samples(
    held_out: Sequence[Path],
    checkpoints: Mapping[str, Path],
    file: Path,
    *,
    size: int,
    device: str,
    rows_each: int = 4,
    cell_px: int = 224,
) -> None:
    """Write a picture: a row per image, the original first, then each checkpoint.

    Shown is the window about the image's largest word or face, where it has one.

    Args:
        held_out: datasets; images are taken from each at even distances.
        checkpoints: heading -> file.
        file: the picture, .png; one that is there is replaced.
        size: side of the square that tokenizers see, pixels.
        device: where they run.
        rows_each: images of each dataset.
        cell_px: side of a picture on the sheet.
    """
    calls = list(load_tokenizers(list(checkpoints.values()), device).values())
    rows = []
    for path in held_out:
        dataset = ManifestDataset([path])
        step = max(1, len(dataset) // rows_each)
        for index in range(step // 2, len(dataset), step)[:rows_each]:
            image = dataset.read(index)
            square, framing = frame(image.image, size)
            boxes = np.concatenate([image.text_boxes, image.face_boxes])
            window = _window(boxes, framing)
            rows.append([shown[window] for shown in (square, *(call(square) for call in calls))])
    sheet = _sheet(rows, ["original", *checkpoints], cell_px)
    with atomic_write(file) as temporary:
        sheet.save(temporary, "PNG")


def _window(boxes: NDArray[np.float32], framing: Framing) -> tuple[slice, slice]:
    """Rows and columns of a square about the largest box (N, 4) of an image, in its framing."""
    if not len(boxes):
        return slice(None), slice(None)
    scale = np.divide(framing.scaled_size, framing.image_size)
    corners = boxes.reshape(-1, 2, 2) * scale + framing.offset
    largest = corners[np.argmax(np.prod(corners[:, 1] - corners[:, 0], axis=1))]
    wanted = round(_WINDOW_IN_BOXES * float((largest[1] - largest[0]).max()))
    side = min(max(wanted, _LEAST_WINDOW_PX), framing.side)
    left, top = (largest.mean(0) - side / 2).clip(0, framing.side - side).astype(int)
    return slice(top, top + side), slice(left, left + side)


def _sheet(
    rows: Sequence[Sequence[NDArray[np.uint8]]], headings: Sequence[str], cell: int
) -> PillowImage.Image:
    step = cell + _GAP_PX
    sheet = PillowImage.new("RGB", (step * len(headings), _HEAD_PX + step * len(rows)), "white")
    draw, font = ImageDraw.Draw(sheet), ImageFont.load_default(_FONT_PX)
    for column, heading in enumerate(headings):
        draw.text((column * step + _GAP_PX, _GAP_PX), heading, fill="black", font=font)
    for number, row in enumerate(rows):
        for column, pixels in enumerate(row):
            picture = PillowImage.fromarray(pixels).resize((cell, cell))
            sheet.paste(picture, (column * step, _HEAD_PX + number * step))
    return sheet
