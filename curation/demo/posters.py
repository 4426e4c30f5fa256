"""Posters: words set in real fonts on photographs or plain grounds, with exact word boxes.

    choose_words -> design_poster -> paint -> Poster(image, words)

A design is decided completely before anything is painted, so that the same design without its
words is the ground truth for where ink is. Everything is a function of the generator it is given.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from annotations_schema.errors import UsageError
from curation.demo.poster_grounds import PALETTES, Colour, Panel, PosterConfig, Rectangle, panels

LINE_BREAKS: dict[int, tuple[tuple[int, ...], ...]] = {
    1: ((1,),),
    2: ((2,), (1, 1)),
    3: ((1, 2), (2, 1), (1, 1, 1)),
    4: ((2, 2), (1, 1, 2), (1, 2, 1)),
    5: ((1, 2, 2), (2, 1, 2), (2, 3)),
    6: ((2, 2, 2), (1, 2, 3), (3, 3)),
}
"""How many words stand on each line, by number of words."""


READING_MARGIN = 0.1
"""Room around a word for a reader, as a share of its height. Cut at the ink, EasyOCR reads 84 % of
the words of fresh posters; with 6 % or more of room it reads all of them."""


class PosterWord(NamedTuple):
    """A word that can be read in a poster."""

    text: str
    box_xyxy: tuple[float, float, float, float]
    """Edge coordinates: the smallest box that holds every pixel the word touches."""

    def reading_box(self, width: int, height: int) -> tuple[float, float, float, float]:
        """Returns the box with the room that readers expect, inside an image of that size."""
        x0, y0, x1, y1 = self.box_xyxy
        room = READING_MARGIN * (y1 - y0)
        return (
            max(0.0, x0 - room),
            max(0.0, y0 - room),
            min(float(width), x1 + room),
            min(float(height), y1 + room),
        )


class Poster(NamedTuple):
    """A finished poster."""

    image: NDArray[np.uint8]
    """(H, W, 3) RGB."""
    words: tuple[PosterWord, ...]


class SetWord(NamedTuple):
    """A word with its type and its place: origin is the left end of the baseline, in pixels."""

    text: str
    font: Path
    size_px: int
    colour: Colour
    origin: tuple[int, int]


class Design(NamedTuple):
    """A poster before its words are painted."""

    canvas: NDArray[np.uint8]
    words: tuple[SetWord, ...]


def choose_words(
    rng: np.random.Generator, vocabulary: Sequence[str], max_words: int = 6
) -> list[str]:
    """Returns 1 to max_words (at most 6) different words in one of three letter cases."""
    if not 1 <= max_words <= max(LINE_BREAKS):
        raise UsageError(f"max_words={max_words}: must be 1 to {max(LINE_BREAKS)}; change it")
    if len(vocabulary) < max_words:
        raise UsageError(f"{len(vocabulary)} words: needs {max_words} or more; add words")
    count = int(rng.integers(1, max_words + 1))
    chosen = [vocabulary[i] for i in rng.choice(len(vocabulary), size=count, replace=False)]
    case = rng.choice(3, p=(0.5, 0.3, 0.2))
    return [(word.upper(), word.capitalize(), word)[case] for word in chosen]


def design_poster(
    rng: np.random.Generator,
    words: Sequence[str],
    fonts: Sequence[Path],
    config: PosterConfig,
    background: NDArray[np.uint8] | None = None,
) -> Design:
    """Returns where each word goes and what lies behind it.

    Args:
        rng: decides palette, layout and font.
        words: 1 to 6 words; letters and digits that every font has.
        fonts: TrueType files, one is chosen.
        config: size, smallest letters, contrast.
        background: (h, w, 3) uint8 RGB photograph, cropped to fill the poster; None: a gradient.
    """
    if len(words) not in LINE_BREAKS:
        raise UsageError(f"{len(words)} words: a poster has 1 to {max(LINE_BREAKS)}; change them")
    palette = PALETTES[rng.integers(len(PALETTES))]
    font = fonts[int(rng.integers(len(fonts)))]
    for panel in panels(rng, palette, config, background):
        lines, size_px = _break_lines(font, words, panel.area)
        if size_px >= config.min_letter_px:
            return Design(panel.canvas, _set_lines(rng, lines, font, panel, config))
    raise UsageError(
        f"{' '.join(words)!r}: does not fit {config.width}x{config.height} px in letters of "
        f"{config.min_letter_px} px; take fewer words or a larger poster"
    )


def paint(design: Design) -> Poster:
    """Returns the poster of a design; each box is measured on the ink that was painted."""
    image = Image.fromarray(design.canvas)
    words = []
    for word in design.words:
        ink = Image.new("L", image.size, 0)
        ImageDraw.Draw(ink).text(
            word.origin, word.text, fill=255, font=_font(word.font, word.size_px), anchor="ls"
        )
        edges = ink.getbbox()
        if edges is None:
            raise UsageError(f"{word.text!r}: {word.font.name} paints no ink for it; change it")
        image.paste(word.colour, mask=ink)
        x0, y0, x1, y1 = map(float, edges)
        words.append(PosterWord(word.text, (x0, y0, x1, y1)))
    return Poster(np.asarray(image), tuple(words))


def _break_lines(font: Path, words: Sequence[str], area: Rectangle) -> tuple[list[list[str]], int]:
    """Returns the lines whose smallest letters are largest, and the font size of those letters."""
    options = []
    for counts in LINE_BREAKS[len(words)]:
        ends = np.cumsum(counts).tolist()
        lines = [list(words[end - count : end]) for count, end in zip(counts, ends, strict=True)]
        options.append((lines, min(_fitting_sizes(font, lines, area))))
    return max(options, key=lambda option: option[1])


def _gap(area: Rectangle) -> int:
    """Space between two lines in pixels."""
    return max(4, (area[3] - area[1]) // 14)


def _fitting_sizes(font: Path, lines: Sequence[Sequence[str]], area: Rectangle) -> list[int]:
    """Returns the largest font size of each line when all lines share the height of the area."""
    reference_px = 200
    inks = [_line_ink(font, line, reference_px) for line in lines]
    room = (area[3] - area[1] - _gap(area) * (len(lines) - 1)) / len(lines)
    width = area[2] - area[0]
    return [int(reference_px * min(width / ink.width, room / ink.height)) for ink in inks]


def _set_lines(
    rng: np.random.Generator,
    lines: Sequence[Sequence[str]],
    font: Path,
    panel: Panel,
    config: PosterConfig,
) -> tuple[SetWord, ...]:
    """Sets lines below each other: each as large as it fits, or a headline and smaller lines."""
    x0, y0, x1, y1 = panel.area
    sizes = _fitting_sizes(font, lines, panel.area)
    if rng.random() < 0.6:
        smaller = max(config.min_letter_px, int(rng.uniform(0.3, 0.6) * sizes[0]))
        sizes = [sizes[0], *(min(size, smaller) for size in sizes[1:])]
    inks = [_line_ink(font, line, size) for line, size in zip(lines, sizes, strict=True)]
    gap = _gap(panel.area)
    free = (y1 - y0) - sum(ink.height for ink in inks) - gap * (len(lines) - 1)
    is_centred = rng.random() < 0.6
    words, top = [], y0 + max(0, free) // 2
    for row, (line, size, ink) in enumerate(zip(lines, sizes, inks, strict=True)):
        left = x0 + (x1 - x0 - ink.width) // 2 if is_centred else x0
        colour = panel.headline if row == 0 else panel.rest
        words += [
            SetWord(text, font, size, colour, (left + offset, top + ink.ascent))
            for text, offset in zip(line, ink.offsets, strict=True)
        ]
        top += ink.height + gap
    return tuple(words)


class _LineInk(NamedTuple):
    """Extent of a line in pixels; offsets are the words' origins from the left of its ink."""

    width: int
    height: int
    ascent: int
    offsets: tuple[int, ...]


def _line_ink(font: Path, words: Sequence[str], size_px: int) -> _LineInk:
    face, space = _font(font, size_px), round(0.45 * size_px)
    offsets, cursor, ascent, descent = [], 0, 0, 0
    for word in words:
        left, top, right, bottom = (round(edge) for edge in face.getbbox(word, anchor="ls"))
        offsets.append(cursor - left)
        cursor += right - left + space
        ascent, descent = max(ascent, -top), max(descent, bottom)
    return _LineInk(cursor - space, ascent + descent, ascent, tuple(offsets))


@lru_cache(maxsize=256)
def _font(path: Path, size_px: int) -> ImageFont.FreeTypeFont:
    return ImageFont.truetype(str(path), size_px)
