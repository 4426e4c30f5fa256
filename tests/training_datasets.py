"""Small annotated datasets of real pictures and rendered words, written with the schema package.

Pictures come from scikit-image's wheel, fonts from matplotlib's: no network, no detector.
"""

from __future__ import annotations

import hashlib
import io
import tarfile
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import matplotlib
import numpy as np
from PIL import Image, ImageDraw, ImageFont
from skimage import data

from annotations_schema import (
    DatasetLayout,
    FaceRegions,
    Provenance,
    Receipt,
    TextRegions,
    table_from_rows,
    write_manifest,
)
from annotations_schema.images import perceptual_hash
from annotations_schema.layout import output_files, write_receipt

FONT = Path(matplotlib.get_data_path()) / "fonts" / "ttf" / "DejaVuSans-Bold.ttf"
ASTRONAUT_FACE_BOX = (177.0, 56.0, 272.0, 176.0)
ASTRONAUT_LANDMARKS = ((204, 100), (247, 103), (224, 129), (206, 140), (244, 141))


class Picture(NamedTuple):
    """One row of a small dataset; `text` and `faces` None: no detector ran."""

    image: np.ndarray
    text: TextRegions | None = None
    faces: FaceRegions | None = None
    file_format: str = "png"
    status: str = "ok"


def portrait(size: int = 512) -> Picture:
    """The astronaut with her face annotated."""
    image = np.asarray(Image.fromarray(data.astronaut()).resize((size, size)))
    scale = size / 512
    faces = FaceRegions.from_landmarks(
        [np.array(ASTRONAUT_FACE_BOX) * scale],
        [0.99],
        [(np.array(ASTRONAUT_LANDMARKS) + 0.5) * scale - 0.5],
        size,
        size,
    )
    return Picture(image, TextRegions.empty(), faces)


def words(texts: Sequence[str], size: int = 256, seed: int = 0) -> Picture:
    """Words in black or white on a crop of the coffee photo, with their boxes."""
    rng = np.random.default_rng(seed)
    left, top = rng.integers(0, 600 - size), rng.integers(0, 400 - size)
    canvas = Image.fromarray(data.coffee()[top : top + size, left : left + size])
    draw = ImageDraw.Draw(canvas)
    font = ImageFont.truetype(str(FONT), size // 7)
    boxes = []
    for row, text in enumerate(texts):
        at = (size // 16, size // 16 + row * size // 4)
        draw.text(at, text, font=font, fill="white" if row % 2 else "black")
        boxes.append(draw.textbbox(at, text, font=font))
    quads = [[(x0, y0), (x1, y0), (x1, y1), (x0, y1)] for x0, y0, x1, y1 in boxes]
    text_regions = TextRegions.from_quads(quads, np.full(len(quads), 0.9), size, size)
    return Picture(np.asarray(canvas), text_regions, FaceRegions.empty())


def photo(name: str, size: int | None = None) -> Picture:
    """A picture of scikit-image without any region."""
    image = getattr(data, name)()
    if size is not None:
        image = np.asarray(Image.fromarray(image).resize((size, size)))
    return Picture(image, TextRegions.empty(), FaceRegions.empty())


def few_pictures(size: int = 128) -> list[Picture]:
    """Four words pictures, two portraits, two photos: regions of both kinds, quick to decode."""
    texts = (["OPEN", "ROAD"], ["MARKET"], ["stop", "go"], ["2026"])
    return [
        *(words(text, size, seed) for seed, text in enumerate(texts)),
        portrait(size),
        portrait(size + size // 2),
        photo("chelsea", size),
        photo("rocket", size),
    ]


def write_dataset(
    root: Path, pictures: Sequence[Picture], *, shard_size: int = 1000, annotated: bool = True
) -> Path:
    """Write a dataset folder of these pictures and return it; `annotated` False: no receipts."""
    for start in range(0, len(pictures), shard_size):
        shard = f"{start // shard_size:06d}"
        _write_shard(DatasetLayout(root), shard, start, pictures[start : start + shard_size])
        if annotated:
            layout = DatasetLayout(root)
            outputs = output_files(layout, [layout.annotations(shard)])
            rows = len(pictures[start : start + shard_size])
            receipt = Receipt(
                stage="annotate", shard=shard, config_sha256="0" * 64, outputs=outputs, rows=rows
            )
            write_receipt(layout, receipt)
    return root


def image_id(row: int) -> str:
    """The identity of a row of a small dataset."""
    return hashlib.sha256(f"https://example.org/{row}".encode()).hexdigest()[:32]


def encode(picture: Picture) -> bytes:
    """The picture's file."""
    buffer = io.BytesIO()
    Image.fromarray(picture.image).save(buffer, picture.file_format)
    return buffer.getvalue()


def _write_shard(
    layout: DatasetLayout, shard: str, first_row: int, pictures: Sequence[Picture]
) -> None:
    tar_path = layout.images(shard)
    tar_path.parent.mkdir(parents=True, exist_ok=True)
    rows = []
    with tarfile.open(tar_path, "w") as tar:
        for number, picture in enumerate(pictures, start=first_row):
            file = encode(picture)
            member = tarfile.TarInfo(f"{image_id(number)}.{picture.file_format}")
            member.size = len(file)
            offset = tar.offset + tarfile.BLOCKSIZE
            tar.addfile(member, io.BytesIO(file))
            rows.append(_row(number, shard, offset, file, picture))
    provenance = Provenance(config_sha256="0" * 64, creator="tests")
    layout.annotations(shard).parent.mkdir(parents=True, exist_ok=True)
    write_manifest(layout.annotations(shard), table_from_rows(rows), provenance)


def _row(number: int, shard: str, offset: int, file: bytes, picture: Picture) -> dict[str, object]:
    height, width = picture.image.shape[:2]
    row: dict[str, object] = {
        "image_id": image_id(number),
        "source_row": number,
        "source_name": "small",
        "url": f"https://example.org/{number}",
        "status": picture.status,
        "attempts": 1,
        "elapsed_ms": 0,
        "text_state": "not_run",
        "face_state": "not_run",
    }
    if picture.status != "ok":
        return {**row, "stage": "fetch", "failure_code": "http_404"}
    return {
        **row,
        "sha256": hashlib.sha256(file).hexdigest(),
        "phash": perceptual_hash(picture.image),
        "format": picture.file_format,
        "bytes": len(file),
        "exif_orientation": 0,
        "width": width,
        "height": height,
        "stored_width": width,
        "stored_height": height,
        "shard": shard,
        "offset": offset,
        "length": len(file),
        "text_state": _state(picture.text),
        "face_state": _state(picture.faces),
        "text_regions": picture.text,
        "face_regions": picture.faces,
    }


def _state(regions: TextRegions | FaceRegions | None) -> str:
    if regions is None:
        return "not_run"
    return "found" if len(regions) else "none"
