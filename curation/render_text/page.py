"""One picture with words: where they stand, in which font and colour, and their exact boxes.

A pure function of the background, the choices and a random generator.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image as PillowImage
from PIL import ImageDraw, ImageFont

from annotations_schema.errors import UsageError

Image = NDArray[np.uint8]
Colour = tuple[int, int, int]

_GAP_PX = 3
"""Between two words, and around a word on its plate."""
_PLACES = 12
"""Places that are tried for a word before it is left out."""


@dataclass(frozen=True, kw_only=True, slots=True)
class PageConfig:
    """How words are set."""

    size_px: int = 256
    """Side of the picture, pixels."""
    letter_px: tuple[int, int] = (16, 40)
    """Least and largest size of the font, pixels; capitals are about 0.7 of it high."""
    words: tuple[int, int] = (2, 7)
    """Least and largest number of words; those that find no room are left out."""
    max_angle_deg: float = 4.0
    """Words are turned by up to so many degrees, either way; half of them are not turned."""
    min_contrast: float = 3.0
    """Least contrast ratio (WCAG 2.1: 1 to 21) between ink and the background around it; 3 is
    what it asks of large letters. Where no ink has it, the word stands on a plate."""

    def __post_init__(self) -> None:
        for name in ("letter_px", "words"):
            low, high = getattr(self, name)
            if not 1 <= low <= high:
                raise UsageError(f"{name} {low} {high}: write the least first, at least 1")
        if not 32 <= self.size_px <= 4096:
            raise UsageError(f"size_px {self.size_px} must lie between 32 and 4096")
        if self.letter_px[1] > self.size_px // 2:
            raise UsageError(
                f"letter_px {self.letter_px[1]} does not fit a picture of {self.size_px} px; its "
                "half is the most"
            )
        if not 0 <= self.max_angle_deg <= 45:
            raise UsageError(f"max_angle_deg {self.max_angle_deg} must lie between 0 and 45")
        if not 1 <= self.min_contrast <= 10:
            raise UsageError(f"min_contrast {self.min_contrast} must lie between 1 and 10")


class RenderedWord(NamedTuple):
    """A word as it stands.

    font: name of the font's file.
    quad: (4, 2) float64, corners of its ink from the upper left clockwise, edge coordinates.
    """

    text: str
    font: str
    quad: NDArray[np.float64]


class Page(NamedTuple):
    """A picture (size_px, size_px, 3) uint8 RGB and its words."""

    image: Image
    words: tuple[RenderedWord, ...]


def render_page(
    background: Image,
    vocabulary: Sequence[str],
    fonts: Sequence[Path],
    config: PageConfig,
    rng: np.random.Generator,
) -> Page:
    """Set words on a random square of a background.

    Args:
        background: (H, W, 3) uint8 RGB; text that is in it stays, without a box.
        vocabulary: words to draw from.
        fonts: font files that have all their letters.
        config: how.
        rng: every choice comes from it.
    """
    image = _square(background, config.size_px, rng)
    taken: list[tuple[int, int, int, int]] = []
    words = []
    for _ in range(rng.integers(config.words[0], config.words[1], endpoint=True)):
        text = _cased(vocabulary[int(rng.integers(len(vocabulary)))], rng)
        font = fonts[int(rng.integers(len(fonts)))]
        mask, quad = _ink(text, font, config, rng)
        place = _free_place(mask.size, config.size_px, taken, rng)
        if place is None:
            continue
        left, top = place
        taken.append((left, top, left + mask.width, top + mask.height))
        _print(image, mask, place, config.min_contrast, rng)
        words.append(RenderedWord(text, font.name, quad + place))
    return Page(np.asarray(image), tuple(words))


def luminance(pixels: NDArray[np.float64]) -> NDArray[np.float64]:
    """Relative luminance (WCAG 2.1) of (..., 3) sRGB in [0, 255]; in [0, 1]."""
    share = pixels / 255.0
    linear = np.where(share <= 0.04045, share / 12.92, ((share + 0.055) / 1.055) ** 2.4)
    weighted: NDArray[np.float64] = linear @ np.array([0.2126, 0.7152, 0.0722])
    return weighted


def contrast(one: float, other: float) -> float:
    """Contrast ratio of two luminances, from 1 to 21."""
    return (max(one, other) + 0.05) / (min(one, other) + 0.05)


def _square(background: Image, side: int, rng: np.random.Generator) -> PillowImage.Image:
    picture = PillowImage.fromarray(background)
    short = min(picture.size)
    window = int(rng.integers(max(1, short // 2), short, endpoint=True))
    left = int(rng.integers(picture.width - window, endpoint=True))
    top = int(rng.integers(picture.height - window, endpoint=True))
    cut = picture.crop((left, top, left + window, top + window))
    return cut.resize((side, side), PillowImage.Resampling.LANCZOS)


def _cased(word: str, rng: np.random.Generator) -> str:
    return (word, word.upper(), word.capitalize())[int(rng.integers(3))]


def _ink(
    text: str, font_file: Path, config: PageConfig, rng: np.random.Generator
) -> tuple[PillowImage.Image, NDArray[np.float64]]:
    """Coverage of a word, cut to its ink, and the corners of its ink in it."""
    size = int(rng.integers(*config.letter_px, endpoint=True))
    # The basic layout: what the other one does depends on a library that may not be there.
    font = ImageFont.truetype(str(font_file), size, layout_engine=ImageFont.Layout.BASIC)
    left, top, right, bottom = (int(edge) for edge in font.getbbox(text))
    canvas = PillowImage.new("L", (right - left + 2, bottom - top + 2))
    ImageDraw.Draw(canvas).text((1 - left, 1 - top), text, font=font, fill=255)
    ink = canvas.crop(canvas.getbbox())
    corners = np.array([(0, 0), (ink.width, 0), (ink.width, ink.height), (0, ink.height)], float)
    if config.max_angle_deg == 0 or rng.random() < 0.5:
        return ink, corners
    angle = float(rng.uniform(-config.max_angle_deg, config.max_angle_deg))
    turned = ink.rotate(angle, PillowImage.Resampling.BICUBIC, expand=True)
    radians = np.deg2rad(-angle)  # Pillow turns against the clock, y points down
    turn = np.array([[np.cos(radians), -np.sin(radians)], [np.sin(radians), np.cos(radians)]])
    center = np.array(ink.size) / 2
    return turned, (corners - center) @ turn.T + np.array(turned.size) / 2


def _free_place(
    size: tuple[int, int],
    side: int,
    taken: Sequence[tuple[int, int, int, int]],
    rng: np.random.Generator,
) -> tuple[int, int] | None:
    room = (side - size[0] - 2 * _GAP_PX, side - size[1] - 2 * _GAP_PX)
    if min(room) < 0:
        return None
    for _ in range(_PLACES):
        left, top = (int(rng.integers(_GAP_PX, _GAP_PX + r, endpoint=True)) for r in room)
        right, bottom = left + size[0], top + size[1]
        gap = 2 * _GAP_PX
        if all(
            right + gap < x0 or left > x1 + gap or bottom + gap < y0 or top > y1 + gap
            for x0, y0, x1, y1 in taken
        ):
            return left, top
    return None


def _print(
    image: PillowImage.Image,
    mask: PillowImage.Image,
    place: tuple[int, int],
    min_contrast: float,
    rng: np.random.Generator,
) -> None:
    left, top = place
    plate = (
        left - _GAP_PX, top - _GAP_PX, left + mask.width + _GAP_PX, top + mask.height + _GAP_PX
    )  # fmt: skip
    around = luminance(np.asarray(image.crop(plate), np.float64))
    darkest, brightest = np.quantile(around, (0.05, 0.95)).tolist()
    ink = _ink_colour(darkest, brightest, min_contrast, rng)
    if ink is None:
        ground = _random_colour(rng)
        level = float(luminance(np.array(ground, np.float64)))
        image.paste(ground, plate)
        ink = _ink_colour(level, level, min_contrast, rng) or _black_or_white(level)
    image.paste(ink, place, mask)


def _ink_colour(
    darkest: float, brightest: float, min_contrast: float, rng: np.random.Generator
) -> Colour | None:
    for _ in range(_PLACES):
        colour = _random_colour(rng)
        level = float(luminance(np.array(colour, np.float64)))
        if min(contrast(level, darkest), contrast(level, brightest)) >= min_contrast and not (
            darkest < level < brightest
        ):
            return colour
    return None


def _random_colour(rng: np.random.Generator) -> Colour:
    red, green, blue = rng.integers(256, size=3).tolist()
    return red, green, blue


def _black_or_white(level: float) -> Colour:
    return (0, 0, 0) if contrast(level, 0.0) > contrast(level, 1.0) else (255, 255, 255)
