"""A gallery of real pictures for the demo and the tests: photographs, their variants, posters.

Nothing is stored in the project and nothing is downloaded: photographs are read where installed
packages keep them. A variant is a crop of a photograph, mirrored, brightened and scaled, and its
name says so. The gallery is split by what is in the picture, not by file: no person, word, page
or background of the held-out part occurs in the training part.
"""

from __future__ import annotations

import io
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageEnhance, ImageOps

from curation.demo.packaged import font_files, packaged_file
from curation.demo.photos import HELD_OUT_PHOTOS, TRAIN_PHOTOS, Box, Kind, Photo
from curation.demo.pictures import exif_rotated
from curation.demo.poster_grounds import PosterConfig
from curation.demo.posters import PosterWord, choose_words, design_poster, paint
from curation.demo.words import vocabulary

POSTER_SIDES_PX = (384, 448, 512, 640)
VARIANT_SIDES_PX = (320, 384, 448, 512)


@dataclass(frozen=True, kw_only=True, slots=True)
class GalleryImage:
    """One file of the gallery, as a web server would serve it."""

    name: str
    """File name with suffix, unique in the gallery."""
    data: bytes
    kind: Kind
    caption: str
    licence: str
    source: str
    words: tuple[PosterWord, ...] = ()
    """What is written where, in edge coordinates of the upright picture; known for posters only.
    The boxes are reading boxes: the ink and a little room."""


def gallery(*, held_out: bool, num_posters: int, seed: int = 0) -> tuple[GalleryImage, ...]:
    """Returns one part of the gallery: the same bytes for the same arguments and packages.

    Args:
        held_out: the part for evaluation; else the part for training.
        num_posters: how many posters to draw, 0 or more.
        seed: of variants and posters.

    Raises:
        UsageError: a package or a picture in it is missing.
    """
    photos = HELD_OUT_PHOTOS if held_out else TRAIN_PHOTOS
    rng = np.random.default_rng([seed, int(held_out)])
    images = [_photograph(photo) for photo in photos]
    for photo in photos:
        images += _variants(rng, photo)
    grounds = [photo for photo in photos if photo.kind == "neither"]
    images += _posters(rng, num_posters, grounds, vocabulary(held_out=held_out))
    return tuple(images)


def rotated_copy(image: GalleryImage) -> GalleryImage:
    """Returns the picture stored lying on its side as JPEG, with the EXIF mark that turns it up."""
    name = f"{Path(image.name).stem}-on-its-side.jpg"
    return replace(image, name=name, data=exif_rotated(image.data))


def _photograph(photo: Photo) -> GalleryImage:
    """The file itself where the whole of it is used, else its crop as JPEG."""
    file = packaged_file(photo.package, photo.path)
    if photo.crop is None:
        data, suffix = file.read_bytes(), file.suffix
    else:
        data, suffix = _jpeg(Image.fromarray(_pixels(photo)), 95), ".jpg"
    return GalleryImage(
        name=photo.name + suffix,
        data=data,
        kind=photo.kind,
        caption=photo.caption,
        licence=photo.licence,
        source=photo.source,
    )


def _pixels(photo: Photo) -> NDArray[np.uint8]:
    """The photograph after its crop, (H, W, 3) uint8 RGB."""
    with Image.open(packaged_file(photo.package, photo.path)) as image:
        return np.asarray(image.convert("RGB").crop(photo.crop or (0, 0, *image.size)))


def _variants(rng: np.random.Generator, photo: Photo) -> Iterator[GalleryImage]:
    original = Image.fromarray(_pixels(photo))
    windows: Sequence[Box | None] = photo.focus or (None,)
    number = 0
    for focus in windows:
        for _ in range(photo.num_variants):
            number += 1
            variant = _variant(rng, original, focus, may_mirror=photo.kind != "text")
            is_png = rng.random() < 0.2
            yield GalleryImage(
                name=f"{photo.name}-variant-{number}{'.png' if is_png else '.jpg'}",
                data=_png(variant) if is_png else _jpeg(variant, int(rng.integers(80, 96))),
                kind=photo.kind,
                caption=f"{photo.caption} (variant {number})",
                licence=photo.licence,
                source=photo.source,
            )


def _variant(
    rng: np.random.Generator, image: Image.Image, focus: Box | None, *, may_mirror: bool
) -> Image.Image:
    """A window of the photograph, perhaps mirrored, with other light, at another size."""
    window = _window(rng, image.size, focus)
    part = image.crop(window)
    if may_mirror and rng.random() < 0.5:
        part = ImageOps.mirror(part)
    part = ImageEnhance.Brightness(part).enhance(float(rng.uniform(0.85, 1.15)))
    part = ImageEnhance.Contrast(part).enhance(float(rng.uniform(0.85, 1.15)))
    scale = int(rng.choice(VARIANT_SIDES_PX)) / max(part.size)
    size = (max(1, round(part.width * scale)), max(1, round(part.height * scale)))
    return part.resize(size, Image.Resampling.LANCZOS)


def _window(rng: np.random.Generator, size: tuple[int, int], focus: Box | None) -> Box:
    """60 to 95 % of the sides; or a square around the focus, with room."""
    if focus is None:
        width, height = (int(side * rng.uniform(0.6, 0.95)) for side in size)
        left, top = (
            int(rng.integers(0, s - w + 1)) for s, w in zip(size, (width, height), strict=True)
        )
        return (left, top, left + width, top + height)
    x0, y0, x1, y1 = focus
    side = min(*size, int(max(x1 - x0, y1 - y0) * rng.uniform(1.5, 2.4)))
    shift = rng.integers(-side // 10, side // 10 + 1, size=2)
    left = int(np.clip((x0 + x1 - side) // 2 + shift[0], 0, size[0] - side))
    top = int(np.clip((y0 + y1 - side) // 2 + shift[1], 0, size[1] - side))
    return (left, top, left + side, top + side)


def _posters(
    rng: np.random.Generator,
    num_posters: int,
    grounds: Sequence[Photo],
    words: Sequence[str],
) -> Iterator[GalleryImage]:
    """Two posters in three stand on a photograph, the others on plain paper."""
    fonts = font_files()
    for number in range(1, num_posters + 1):
        width, height = (int(side) for side in rng.choice(POSTER_SIDES_PX, size=2))
        chosen = choose_words(rng, words)
        behind = grounds[int(rng.integers(len(grounds)))] if number % 3 else None
        config = PosterConfig(width=width, height=height)
        design = design_poster(rng, chosen, fonts, config, _pixels(behind) if behind else None)
        poster = paint(design)
        yield GalleryImage(
            name=f"poster-{number:02d}.jpg",
            data=_jpeg(Image.fromarray(poster.image), 92),
            kind="poster",
            caption=f'A poster that says "{" ".join(chosen)}"',
            licence=behind.licence if behind else "CC0-1.0",
            source=f"drawn by this demo on {behind.name if behind else 'plain paper'}",
            words=tuple(
                word._replace(box_xyxy=word.reading_box(width, height)) for word in poster.words
            ),
        )


def _jpeg(image: Image.Image, quality: int) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=quality)
    return buffer.getvalue()


def _png(image: Image.Image) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    return buffer.getvalue()
