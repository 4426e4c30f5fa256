"""The contact sheet: which images are shown, and how each is prepared for the page."""

from __future__ import annotations

import base64
import hashlib
import io
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import chain, zip_longest
from typing import NamedTuple

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from PIL import Image

from annotations_schema.geometry import warp_affine
from annotations_schema.images import DecodeLimits, ImageDecodeError, decode
from annotations_schema.layout import DatasetLayout
from annotations_schema.manifest import read_manifest
from annotations_schema.region_columns import face_regions_at, text_regions_at
from annotations_schema.regions import FaceRegions, TextRegions

THUMBNAIL_SIDE_PX = 512
MAX_CROPS_PER_IMAGE = 12
_JPEG_QUALITY = 82


class Candidate(NamedTuple):
    """An ok row that the sheet may show; sorts by a hash of seed and image_id."""

    rank: str
    shard: str
    """Whose manifest has it."""
    row: int
    kind: str
    """Which regions it has: "both", "face", "text" or "neither"."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Crop:
    """An aligned face on the 112 x 112 canvas."""

    data_uri: str
    label: str
    is_valid: bool


@dataclass(frozen=True, kw_only=True, slots=True)
class Tile:
    """One image of the sheet; coordinates are pixels of the frame, edges."""

    image_id: str
    kind: str
    url: str
    caption: str
    facts: str
    width: int
    height: int
    data_uri: str
    quads: tuple[tuple[str, str], ...]
    """SVG points and a label for each text region."""
    boxes: tuple[tuple[tuple[float, float, float, float], str], ...]
    """x, y, width, height and a label for each face."""
    landmarks: tuple[tuple[float, float], ...]
    crops: tuple[Crop, ...]

    @property
    def num_bytes(self) -> int:
        """Size on the page, about."""
        return len(self.data_uri) + sum(len(crop.data_uri) for crop in self.crops)


def candidate(
    seed: int, image_id: str, shard: str, row: int, num_text: int, num_faces: int
) -> Candidate:
    """A row's place in the draw: the same for the same seed, whatever else the dataset holds."""
    rank = hashlib.sha256(f"{seed} {image_id}".encode()).hexdigest()
    kinds = {(True, True): "both", (False, True): "face", (True, False): "text"}
    return Candidate(rank, shard, row, kinds.get((num_text > 0, num_faces > 0), "neither"))


def draw(candidates: Iterable[Candidate], num_images: int) -> list[Candidate]:
    """At most `num_images`, in turn from each kind, so that rare kinds are seen."""
    by_kind: dict[str, list[Candidate]] = {"both": [], "face": [], "text": [], "neither": []}
    for one in sorted(candidates):
        by_kind[one.kind].append(one)
    turns = chain.from_iterable(zip_longest(*by_kind.values()))
    return [one for one in turns if one is not None][:num_images]


class Sheet(NamedTuple):
    """The tiles, and how many chosen images could not be shown."""

    tiles: list[Tile]
    num_unreadable: int
    num_over_budget: int


def make_sheet(
    layout: DatasetLayout, chosen: Sequence[Candidate], limits: DecodeLimits, max_bytes: int
) -> Sheet:
    """The chosen images as tiles, in the order drawn, until the page's budget is spent."""
    made: dict[Candidate, Tile] = {}
    for shard in sorted({one.shard for one in chosen}):
        table = read_manifest(layout.annotations(shard))
        for one in chosen:
            if one.shard == shard and (tile := _tile(layout, table, one, limits)) is not None:
                made[one] = tile
    kept: list[Tile] = []
    for one in chosen:
        if one not in made:
            continue
        max_bytes -= made[one].num_bytes
        if max_bytes < 0:
            break
        kept.append(made[one])
    return Sheet(kept, len(chosen) - len(made), len(made) - len(kept))


def _tile(
    layout: DatasetLayout, table: pa.Table, one: Candidate, limits: DecodeLimits
) -> Tile | None:
    """The tile of a row; None where its bytes are gone or damaged, which `verify` explains."""
    columns = ["image_id", "url", "caption", "shard", "offset", "length", "format", "bytes"]
    row = table.select(columns).slice(one.row, 1).to_pylist()[0]
    try:
        with layout.images(row["shard"]).open("rb") as file:
            file.seek(row["offset"])
            image, header = decode(file.read(row["length"]), limits)
    except (OSError, ImageDecodeError):
        return None
    text = text_regions_at(table, one.row)
    faces = face_regions_at(table, one.row)
    height, width = image.shape[:2]
    return Tile(
        image_id=row["image_id"],
        kind=one.kind,
        url=row["url"] or "",
        caption=row["caption"] or "",
        facts=_facts(row["format"], width, height, row["bytes"], header.exif_orientation),
        width=width,
        height=height,
        data_uri=jpeg_uri(_thumbnail(image)),
        quads=_quads(text),
        boxes=_boxes(faces),
        landmarks=_landmarks(faces),
        crops=_crops(image, faces),
    )


def _facts(image_format: str, width: int, height: int, num_bytes: int, orientation: int) -> str:
    turned = f", EXIF orientation {orientation}" if orientation > 1 else ""
    return f"{width} x {height}, {image_format}, {num_bytes / 1024:,.0f} KiB{turned}"


def _thumbnail(image: NDArray[np.uint8]) -> Image.Image:
    picture = Image.fromarray(image)
    picture.thumbnail((THUMBNAIL_SIDE_PX, THUMBNAIL_SIDE_PX), Image.Resampling.LANCZOS)
    return picture


def jpeg_uri(picture: Image.Image) -> str:
    """A picture as a data: URI that a page can hold."""
    buffer = io.BytesIO()
    picture.save(buffer, "JPEG", quality=_JPEG_QUALITY)
    return "data:image/jpeg;base64," + base64.b64encode(buffer.getvalue()).decode()


def _quads(text: TextRegions | None) -> tuple[tuple[str, str], ...]:
    if text is None:
        return ()
    return tuple(
        (" ".join(f"{x:.1f},{y:.1f}" for x, y in quad), f"text, score {score:.2f}")
        for quad, score in zip(text.quad, text.score, strict=True)
    )


def _boxes(faces: FaceRegions | None) -> tuple[tuple[tuple[float, float, float, float], str], ...]:
    if faces is None:
        return ()
    return tuple(
        (
            (float(x0), float(y0), float(x1 - x0), float(y1 - y0)),
            f"face, score {score:.2f}, {max(x1 - x0, y1 - y0):.0f} px",
        )
        for (x0, y0, x1, y1), score in zip(faces.box_xyxy, faces.score, strict=True)
    )


def _landmarks(faces: FaceRegions | None) -> tuple[tuple[float, float], ...]:
    """Landmarks are pixel centres; half a pixel brings them to the edges that SVG draws in."""
    if faces is None:
        return ()
    return tuple((float(x) + 0.5, float(y) + 0.5) for x, y in faces.landmarks_5.reshape(-1, 2))


def _crops(image: NDArray[np.uint8], faces: FaceRegions | None) -> tuple[Crop, ...]:
    if faces is None:
        return ()
    has_fit = ~np.isnan(faces.crop_from_image).any(axis=(1, 2))
    shown = np.flatnonzero(has_fit)[:MAX_CROPS_PER_IMAGE]
    return tuple(
        Crop(
            data_uri=jpeg_uri(Image.fromarray(warp_affine(image, faces.crop_from_image[index]))),
            label=f"score {faces.score[index]:.2f}, residual {faces.residual_px[index]:.1f} px",
            is_valid=bool(faces.is_valid[index]),
        )
        for index in shown
    )
