"""Datasets for the evidence, from photographs with ground truth and from rendered words.

    python -m tests.benchmarks.evidence_data --data FOLDER --out evidence/data

FOLDER holds train_pool/pool.jsonl and public/{text,faces,general}.jsonl: a JSON object for each
file, with boxes, transcriptions and landmarks by people. It is no part of the project. Training and
held-out images come from different files of it, in which no picture and no person occurs twice;
some persons of the pool, chosen by a hash of their name, are held out too. Rendered words share no
word, font or background between the two sides.

Text pictures are cut to windows in which the letters are some 16 to 20 pixels high when the whole
is shown at 256: a network that a CPU can train keeps nothing smaller.
"""

from __future__ import annotations

import argparse
import hashlib
import io
import json
import random
import sys
import tarfile
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import matplotlib
import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from PIL import Image as PillowImage

from annotations_schema import (
    DatasetLayout,
    FaceRegions,
    Provenance,
    Receipt,
    TextRegions,
    table_from_rows,
    write_manifest,
)
from annotations_schema.images import decode, perceptual_hash
from annotations_schema.layout import output_files, write_receipt
from curation.demo.words import vocabulary
from curation.render_text.fonts import font_files, fonts_that_write
from curation.render_text.page import PageConfig, render_page

Image = NDArray[np.uint8]

LETTERS_PER_SIDE = 16
"""Side of a text window, in heights of its middle word."""
MAX_SIDE_PX = 320
WINDOWS_PER_IMAGE = 3
MIN_LETTER_RATIO = 0.02
"""Words with smaller letters lie below the first bin of the protocol and are not judged."""
RENDERED, RENDERED_HELD_OUT = 600, 100
_PARTS = ("held_out", "tune", "held_out", "train", "held_out", "train")
"""A person's part of the experiment, by a hash of the name; weights are chosen on `tune`."""
SHEET, CELL_PX = 3, 106
"""Faces on each side of a sheet, and the side of one."""
CROP_IN_SPANS, HEAD_MARGIN = 2.6, 0.6
"""Side of a face's square, and what a head has about its landmarks, in spans of the landmarks."""


class Picture(NamedTuple):
    """One row of a dataset."""

    name: str
    image: Image
    text: TextRegions
    faces: FaceRegions
    words: list[dict[str, Any]]


class CroppedFace(NamedTuple):
    """A face in a square of CELL_PX.

    name: person and file.
    image: (CELL_PX, CELL_PX, 3) uint8 RGB.
    landmarks_5: (5, 2) float64, pixels of the square.
    """

    name: str
    image: Image
    landmarks_5: NDArray[np.float64]


def main() -> None:
    """Write the eight datasets."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", 1)[0])
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    arguments = parser.parse_args()
    pool_folder, public = arguments.data / "train_pool", arguments.data / "public"
    if not (pool_folder / "pool.jsonl").is_file():
        sys.exit(f"{arguments.data} holds no train_pool/pool.jsonl; see the head of this module")
    pool = _rows(pool_folder / "pool.jsonl")
    of = {kind: [r for r in pool if r["kind"] == kind] for kind in ("text", "face", "general")}
    faces = {
        part: _cropped_faces(pool_folder, [row for row in of["face"] if _part(row) == part])
        for part in set(_PARTS)
    }
    general = _rows(public / "general.jsonl")
    out = arguments.out
    write_pictures(out / "train/text", _text_windows(pool_folder, of["text"]))
    write_pictures(out / "train/faces", _face_sheets(faces["train"]))
    write_pictures(out / "tune/faces", _face_sheets(faces["tune"]))
    write_pictures(out / "train/general", _plain(pool_folder, of["general"]))
    write_pictures(
        out / "train/rendered", _rendered(pool_folder, of["general"], RENDERED, held_out=False)
    )
    write_pictures(
        out / "held_out/photos_text", _judged(_text_windows(public, _rows(public / "text.jsonl")))
    )
    others = _cropped_faces(public, _rows(public / "faces.jsonl"))
    write_pictures(out / "held_out/photos_faces", _face_sheets([*faces["held_out"], *others]))
    write_pictures(
        out / "held_out/rendered", _rendered(public, general, RENDERED_HELD_OUT, held_out=True)
    )


def _rows(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def _part(row: dict[str, Any]) -> str:
    person = row["faces"][0].get("identity") or row["id"]
    return _PARTS[int(hashlib.sha256(person.encode()).hexdigest(), 16) % len(_PARTS)]


def _open(folder: Path, row: dict[str, Any]) -> PillowImage.Image:
    return PillowImage.fromarray(decode((folder / row["file"]).read_bytes())[0])


def _text_windows(folder: Path, rows: Iterable[dict[str, Any]]) -> Iterator[Picture]:
    """Windows around the largest words of each picture, with every word that lies in them."""
    for row in rows:
        picture = _open(folder, row)
        shown = [one for one in row["instances"] if not one.get("ignore")]
        by_size = sorted(shown, key=lambda one: -_short_side(one["bbox"]))
        for number, middle in enumerate(by_size[:WINDOWS_PER_IMAGE]):
            x0, y0, x1, y1 = middle["bbox"]
            wanted = max(
                LETTERS_PER_SIDE * _short_side(middle["bbox"]), 1.15 * max(x1 - x0, y1 - y0)
            )
            side = int(min(max(wanted, 96), *picture.size))
            if _short_side(middle["bbox"]) < 8:
                continue
            left = int(min(max((x0 + x1 - side) / 2, 0), picture.width - side))
            top = int(min(max((y0 + y1 - side) / 2, 0), picture.height - side))
            window = picture.crop((left, top, left + side, top + side))
            scale = min(1.0, MAX_SIDE_PX / side)
            size = round(side * scale)
            window = window.resize((size, size), PillowImage.Resampling.LANCZOS)
            found = [
                (one, corners)
                for one in shown
                if (corners := _inside(one["polygon"], left, top, scale, size)) is not None
            ]
            if found:
                yield Picture(
                    f"{row['id']}/{number}",
                    np.asarray(window),
                    TextRegions.from_quads([q for _, q in found], np.ones(len(found)), size, size),
                    FaceRegions.empty(),
                    [
                        {"box_xyxy": [*q.min(0).tolist(), *q.max(0).tolist()], "text": one["text"]}
                        for one, q in found
                        if one.get("text")
                        and _letter_ratio(one["text"], q, size) >= MIN_LETTER_RATIO
                    ],
                )


def _inside(
    polygon: list[list[float]], left: int, top: int, scale: float, size: int
) -> NDArray[np.float64] | None:
    corners = (np.array(polygon, np.float64) - (left, top)) * scale
    return corners.clip(0, size) if corners.min() >= -1 and corners.max() <= size + 1 else None


def _short_side(box: Sequence[float]) -> float:
    return min(box[2] - box[0], box[3] - box[1])


def _letter_ratio(text: str, quad: NDArray[np.float64], size: int) -> float:
    return float((quad.max(0) - quad.min(0)).max()) / len(text) / size


def _judged(pictures: Iterable[Picture]) -> Iterator[Picture]:
    return (picture for picture in pictures if picture.words)


def _face_sheets(faces: Sequence[CroppedFace]) -> Iterator[Picture]:
    """Sheets of SHEET x SHEET faces, in order; those left over fill a sheet that repeats nothing.

    Shown alone at 256 a face fills the picture, and the judge finds hardly a difference between
    tokenizers; here a face is some 70 pixels high when the sheet is shown.
    """
    per_sheet = SHEET * SHEET
    for number in range(0, len(faces), per_sheet):
        shown = faces[number : number + per_sheet]
        sheet = np.full((SHEET * CELL_PX, SHEET * CELL_PX, 3), 128, np.uint8)
        boxes, points = [], []
        for place, face in enumerate(shown):
            corner = np.array([place % SHEET, place // SHEET]) * CELL_PX
            left, top = corner
            sheet[top : top + CELL_PX, left : left + CELL_PX] = face.image
            five = face.landmarks_5 + corner
            margin = HEAD_MARGIN * float(np.ptp(five, axis=0).max())
            low = np.maximum(five.min(0) - margin, corner)
            boxes.append(np.concatenate([low, np.minimum(five.max(0) + margin, corner + CELL_PX)]))
            points.append(five)
        regions = FaceRegions.from_landmarks(
            boxes, np.ones(len(boxes)), points, *sheet.shape[1::-1]
        )
        name = f"sheet/{shown[0].name}"
        yield Picture(name, sheet, TextRegions.empty(), regions, [])


def _cropped_faces(folder: Path, rows: Iterable[dict[str, Any]]) -> list[CroppedFace]:
    """Every face of known landmarks as a square cell, those of a person next to each other."""
    found = []
    for row in rows:
        picture = _open(folder, row)
        for number, face in enumerate(row["faces"]):
            if not face.get("landmarks5"):
                continue
            five = np.array(face["landmarks5"], np.float64)
            side = min(CROP_IN_SPANS * float(np.ptp(five, axis=0).max()), *picture.size)
            corner = (five.min(0) + five.max(0) - side) / 2
            corner = np.minimum(corner.clip(0), np.array(picture.size) - side)
            cell = picture.resize(
                (CELL_PX, CELL_PX),
                PillowImage.Resampling.LANCZOS,
                box=(*corner.tolist(), *(corner + side).tolist()),
            )
            person = face.get("identity") or row["id"]
            landmarks = (five - corner) * (CELL_PX / side)
            found.append(CroppedFace(f"{person}/{row['id']}/{number}", np.asarray(cell), landmarks))
    return sorted(found, key=lambda face: face.name)


def _plain(folder: Path, rows: Iterable[dict[str, Any]]) -> Iterator[Picture]:
    for row in rows:
        image = np.asarray(_open(folder, row))
        yield Picture(row["id"], image, TextRegions.empty(), FaceRegions.empty(), [])


def _rendered(
    folder: Path, rows: Sequence[dict[str, Any]], count: int, *, held_out: bool
) -> Iterator[Picture]:
    words = vocabulary(held_out=held_out)
    every = fonts_that_write(font_files([Path(matplotlib.get_data_path()) / "fonts/ttf"]), words)
    fonts = [font for i, font in enumerate(every) if (i % 3 == 2) == held_out]
    order = random.Random(int(held_out))
    for number in range(count):
        background = np.asarray(_open(folder, order.choice(rows)))
        rng = np.random.default_rng([int(held_out), number])
        page = render_page(background, words, fonts, PageConfig(), rng)
        size = page.image.shape[0]
        quads = [word.quad.clip(0, size) for word in page.words]
        text = (
            TextRegions.from_quads(quads, np.ones(len(quads)), size, size)
            if quads
            else TextRegions.empty()
        )
        yield Picture(
            f"rendered/{int(held_out)}/{number}",
            page.image,
            text,
            FaceRegions.empty(),
            [
                {"box_xyxy": [*q.min(0).tolist(), *q.max(0).tolist()], "text": word.text}
                for word, q in zip(page.words, quads, strict=True)
            ],
        )


def write_pictures(root: Path, pictures: Iterable[Picture]) -> None:
    """A dataset of one shard; images as JPEG of quality 95 without subsampling."""
    layout, shard, rows = DatasetLayout(root), "000000", []
    Path(layout.images(shard)).parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(layout.images(shard), "w") as tar:
        for picture in pictures:
            rows.append(_row(tar, shard, len(rows), picture))
    manifest = layout.annotations(shard)
    Path(manifest).parent.mkdir(parents=True, exist_ok=True)
    table = table_from_rows(rows, [pa.field("input_words", pa.string())])
    write_manifest(manifest, table, Provenance(config_sha256="0" * 64, creator="evidence_data"))
    outputs = output_files(layout, [manifest])
    receipt = Receipt(
        stage="annotate", shard=shard, config_sha256="0" * 64, outputs=outputs, rows=len(rows)
    )
    write_receipt(layout, receipt)
    words = sum(len(json.loads(row["input_words"])) for row in rows)
    regions = [sum(len(row[kind]) for row in rows) for kind in ("text_regions", "face_regions")]
    print(f"{root}: {len(rows)} images, {regions[0]} texts ({words} words), {regions[1]} faces")


def _row(tar: tarfile.TarFile, shard: str, number: int, picture: Picture) -> dict[str, Any]:
    buffer = io.BytesIO()
    PillowImage.fromarray(picture.image).save(buffer, "JPEG", quality=95, subsampling=0)
    file, image_id = buffer.getvalue(), hashlib.sha256(picture.name.encode()).hexdigest()[:32]
    member = tarfile.TarInfo(f"{image_id}.jpg")
    member.size = len(file)
    offset = tar.offset + tarfile.BLOCKSIZE
    tar.addfile(member, io.BytesIO(file))
    height, width = picture.image.shape[:2]
    return {
        "image_id": image_id,
        "source_row": number,
        "source_name": "evidence",
        "url": f"https://example.org/{picture.name}",
        "status": "ok",
        "attempts": 1,
        "elapsed_ms": 0,
        "text_state": "found" if len(picture.text) else "none",
        "face_state": "found" if len(picture.faces) else "none",
        "sha256": hashlib.sha256(file).hexdigest(),
        "phash": perceptual_hash(picture.image),
        "format": "jpeg",
        "bytes": len(file),
        "exif_orientation": 0,
        "width": width,
        "height": height,
        "stored_width": width,
        "stored_height": height,
        "shard": shard,
        "offset": offset,
        "length": len(file),
        "text_regions": picture.text,
        "face_regions": picture.faces,
        "input_words": json.dumps(picture.words),
    }


if __name__ == "__main__":
    main()
