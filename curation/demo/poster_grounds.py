"""What words are set on: gradients, and photographs that are veiled or have a band or a card."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from annotations_schema.errors import UsageError

Colour = tuple[int, int, int]
Rectangle = tuple[int, int, int, int]


class Palette(NamedTuple):
    """The colours of one poster, RGB in [0, 255]."""

    ground: Colour
    ink: Colour
    accent: Colour


PALETTES: tuple[Palette, ...] = (
    Palette((246, 241, 230), (24, 34, 58), (178, 44, 34)),
    Palette((18, 26, 44), (250, 246, 236), (255, 204, 84)),
    Palette((255, 221, 74), (26, 22, 20), (122, 20, 30)),
    Palette((188, 36, 40), (255, 250, 240), (255, 226, 150)),
    Palette((12, 92, 86), (250, 250, 242), (255, 220, 120)),
    Palette((255, 255, 255), (14, 14, 16), (20, 84, 160)),
    Palette((36, 30, 60), (255, 236, 214), (255, 160, 140)),
    Palette((224, 236, 240), (10, 44, 70), (150, 50, 20)),
    Palette((244, 190, 160), (60, 18, 30), (20, 50, 90)),
    Palette((16, 16, 16), (255, 255, 255), (120, 220, 200)),
)


@dataclass(frozen=True, kw_only=True, slots=True)
class PosterConfig:
    """What every poster of a set has in common."""

    width: int = 512
    """Width in pixels, 128 to 4096."""
    height: int = 512
    """Height in pixels, 128 to 4096."""
    min_letter_px: int = 16
    """No line is set smaller than this font size in pixels, 8 or more."""
    min_contrast: float = 4.5
    """Contrast ratio of ink against what lies behind it (WCAG 2.1, 1.4.3), 1 to 12."""

    def __post_init__(self) -> None:
        for name in ("width", "height"):
            value = getattr(self, name)
            if not 128 <= value <= 4096:
                raise UsageError(f"{name}={value}: a poster's side is 128 to 4096 px; change it")
        if self.min_letter_px < 8:
            raise UsageError(f"min_letter_px={self.min_letter_px}: must be 8 or more; raise it")
        if not 1.0 <= self.min_contrast <= 12.0:
            raise UsageError(f"min_contrast={self.min_contrast}: must be 1 to 12; change it")


class Panel(NamedTuple):
    """A ground, where words may stand on it, and the inks of its headline and of the rest."""

    canvas: NDArray[np.uint8]
    area: Rectangle
    headline: Colour
    rest: Colour


def panels(
    rng: np.random.Generator,
    palette: Palette,
    config: PosterConfig,
    background: NDArray[np.uint8] | None,
) -> Iterator[Panel]:
    """Yields grounds to try, from a random first one to the one with the most room."""
    if background is None:
        yield _plain_panel(rng, palette, config)
        return
    photo = _cover(background, config.width, config.height)
    first = int(rng.integers(3))
    if first == 0:
        yield _band_panel(rng, palette, config, photo)
    if first == 1:
        yield _card_panel(rng, palette, config, photo)
    yield _veiled_panel(palette, config, photo)


def _plain_panel(rng: np.random.Generator, palette: Palette, config: PosterConfig) -> Panel:
    """A soft gradient in the ground colour, with a frame or an accent rule."""
    canvas = _gradient(palette.ground, config, slope=float(rng.uniform(-0.12, 0.12)))
    image = Image.fromarray(canvas)
    draw = ImageDraw.Draw(image)
    side = min(config.width, config.height)
    margin, line = side // 24, max(2, side // 130)
    right, bottom = config.width - margin, config.height - margin
    if rng.random() < 0.5:
        draw.rectangle((margin, margin, right, bottom), outline=palette.accent, width=line)
    else:
        draw.rectangle((margin, margin, right, margin + 3 * line), fill=palette.accent)
        draw.rectangle((margin, bottom - 3 * line, right, bottom), fill=palette.accent)
    inset = margin + 6 * line
    area = (inset, inset, config.width - inset, config.height - inset)
    return _inked(np.asarray(image), area, palette, config)


def contrast_ratio(first: NDArray[np.float64], second: NDArray[np.float64]) -> NDArray[np.float64]:
    """Returns the WCAG 2.1 contrast ratio, 1 to 21, of two relative luminances in [0, 1]."""
    lighter, darker = np.maximum(first, second), np.minimum(first, second)
    ratio: NDArray[np.float64] = (lighter + 0.05) / (darker + 0.05)
    return ratio


def relative_luminance(rgb: NDArray[np.uint8]) -> NDArray[np.float64]:
    """Returns the WCAG 2.1 relative luminance (...,) in [0, 1] of sRGB (..., 3) uint8."""
    value = np.asarray(rgb, dtype=np.float64) / 255.0
    linear = np.where(value <= 0.04045, value / 12.92, ((value + 0.055) / 1.055) ** 2.4)
    luminance: NDArray[np.float64] = linear @ np.array([0.2126, 0.7152, 0.0722])
    return luminance


def _band_panel(
    rng: np.random.Generator, palette: Palette, config: PosterConfig, photo: NDArray[np.uint8]
) -> Panel:
    """A photograph with a plain band at its top or bottom."""
    width, height, margin = config.width, config.height, min(config.width, config.height) // 20
    band = int(height * rng.uniform(0.36, 0.56))
    top = 0 if rng.random() < 0.4 else height - band
    area = (margin, top + margin, width - margin, top + band - margin)
    return _inked(_filled(photo, (0, top, width, top + band), palette), area, palette, config)


def _card_panel(
    rng: np.random.Generator, palette: Palette, config: PosterConfig, photo: NDArray[np.uint8]
) -> Panel:
    """A photograph with a plain card in its middle."""
    width, height, margin = config.width, config.height, min(config.width, config.height) // 20
    inset_x, inset_y = int(width * rng.uniform(0.06, 0.1)), int(height * rng.uniform(0.14, 0.24))
    card = (inset_x, inset_y, width - inset_x, height - inset_y)
    area = (card[0] + margin, card[1] + margin, card[2] - margin, card[3] - margin)
    return _inked(_filled(photo, card, palette), area, palette, config)


def _veiled_panel(palette: Palette, config: PosterConfig, photo: NDArray[np.uint8]) -> Panel:
    """The ground colour blended over a photograph until ink has its contrast everywhere."""
    width, height, margin = config.width, config.height, min(config.width, config.height) // 20
    area = (margin, margin, width - margin, height - margin)
    ground = np.array(palette.ground, dtype=np.float64)
    for share in (0.35, 0.5, 0.6, 0.7, 0.8, 0.9):
        canvas = np.rint(photo * (1.0 - share) + ground * share).astype(np.uint8)
        if _lowest_contrast(canvas, area, palette.ink) >= config.min_contrast:
            break
    return _inked(canvas, area, palette, config)


def _filled(canvas: NDArray[np.uint8], rectangle: Rectangle, palette: Palette) -> NDArray[np.uint8]:
    """Fills a rectangle with the ground colour, with a thin accent line inside its edge."""
    image = Image.fromarray(canvas)
    draw = ImageDraw.Draw(image)
    x0, y0, x1, y1 = rectangle
    draw.rectangle((x0, y0, x1 - 1, y1 - 1), fill=palette.ground)
    line = max(1, min(image.size) // 200)
    draw.rectangle((x0 + 4, y0 + 4, x1 - 5, y1 - 5), outline=palette.accent, width=line)
    return np.asarray(image)


def _inked(
    canvas: NDArray[np.uint8], area: Rectangle, palette: Palette, config: PosterConfig
) -> Panel:
    """The accent colour is used for words only where it can be read."""
    is_readable = _lowest_contrast(canvas, area, palette.accent) >= config.min_contrast
    return Panel(canvas, area, palette.ink, palette.accent if is_readable else palette.ink)


def _lowest_contrast(canvas: NDArray[np.uint8], area: Rectangle, ink: Colour) -> float:
    """The lower contrast of ink against the 2nd and 98th percentile of luminance in the area."""
    x0, y0, x1, y1 = area
    behind = np.percentile(relative_luminance(canvas[y0:y1, x0:x1]), (2, 98))
    return float(contrast_ratio(behind, relative_luminance(np.array(ink, dtype=np.uint8))).min())


def _gradient(colour: Colour, config: PosterConfig, slope: float) -> NDArray[np.uint8]:
    """Vertical gradient around a colour; slope is the relative change from top to bottom."""
    factor = 1.0 + slope * (np.linspace(0.0, 1.0, config.height) - 0.5)
    rows = np.clip(np.rint(factor[:, None] * np.array(colour)), 0, 255).astype(np.uint8)
    return np.repeat(rows[:, None, :], config.width, axis=1)


def _cover(photo: NDArray[np.uint8], width: int, height: int) -> NDArray[np.uint8]:
    """Resizes a photograph to fill (height, width) and crops the middle of what is too much."""
    scale = max(width / photo.shape[1], height / photo.shape[0])
    size = (max(width, round(photo.shape[1] * scale)), max(height, round(photo.shape[0] * scale)))
    resized = Image.fromarray(photo).resize(size, Image.Resampling.LANCZOS)
    left, top = (size[0] - width) // 2, (size[1] - height) // 2
    return np.asarray(resized.crop((left, top, left + width, top + height)))
