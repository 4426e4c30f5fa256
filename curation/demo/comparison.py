"""Pictures beside their reconstructions, as one image for a person to look at."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont

from annotations_schema.images import decode
from curation.demo.packaged import packaged_file

GAP_PX = 8
HEAD_PX = 26
_PAPER, _INK = (255, 255, 255), (20, 20, 20)


def comparison_sheet(
    pictures: Sequence[Path], reconstructions: Mapping[str, Path], side_px: int
) -> Image.Image:
    """Returns one row per picture: the original, then each reconstruction under its heading.

    Args:
        pictures: image files.
        reconstructions: heading -> folder that holds NAME.png for every picture NAME.*.
        side_px: side of the square that each picture fits into, pixels.
    """
    headings = ("original", *reconstructions)
    rows = [
        [
            _fitted(file, side_px)
            for file in (picture, *(f / f"{picture.stem}.png" for f in reconstructions.values()))
        ]
        for picture in pictures
    ]
    heights = [max(image.height for image in row) + GAP_PX for row in rows]
    step = side_px + GAP_PX
    size = (GAP_PX + step * len(headings), HEAD_PX + GAP_PX + sum(heights))
    sheet = Image.new("RGB", size, _PAPER)
    _write_headings(sheet, headings, step)
    top = HEAD_PX + GAP_PX
    for row, height in zip(rows, heights, strict=True):
        for column, image in enumerate(row):
            sheet.paste(image, (GAP_PX + column * step, top))
        top += height
    return sheet


def _write_headings(sheet: Image.Image, headings: Sequence[str], step: int) -> None:
    font = ImageFont.truetype(
        str(packaged_file("matplotlib", "mpl-data/fonts/ttf/DejaVuSans.ttf")), 15
    )
    for column, heading in enumerate(headings):
        place = (GAP_PX + column * step, GAP_PX)
        ImageDraw.Draw(sheet).text(place, heading, fill=_INK, font=font)


def _fitted(file: Path, side_px: int) -> Image.Image:
    image = Image.fromarray(decode(file.read_bytes())[0])
    scale = side_px / max(image.size)
    size = (max(1, round(image.width * scale)), max(1, round(image.height * scale)))
    return image.resize(size, Image.Resampling.LANCZOS)
