"""What is to be judged: images with words and faces, from our manifests or TokBench's own files.

Coordinates are those of the manifest format: boxes and quads in edges, landmarks in pixel centres,
in the frame of the stored image with EXIF orientation applied.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from annotations_schema import images, manifest
from annotations_schema.codes import FailureCode, Status
from annotations_schema.errors import UsageError
from annotations_schema.region_columns import flatten_faces, flatten_text
from training.data.manifest import BadImageError, ManifestDataset

Image = NDArray[np.uint8]
Float64 = NDArray[np.float64]
Box = tuple[float, float, float, float]

WORDS_COLUMN = "input_words"
"""User column with transcriptions: a JSON list of {"box_xyxy": [x0, y0, x1, y1], "text": "..."}."""


class Word(NamedTuple):
    """A word to read.

    box_xyxy: pixels, edges.
    text: the truth; None where only the place is known (a detector's box).
    quad: 4 corners clockwise from the text's top left, where the annotation turns the word.
    ratio: the annotation's own character ratio, None to compute it.
    """

    box_xyxy: Box
    text: str | None
    quad: tuple[tuple[float, float], ...] | None = None
    ratio: float | None = None


class Face(NamedTuple):
    """A face to compare.

    box_xyxy: pixels, edges. landmarks_5: (5, 2) float64, pixel centres.
    ratio: the annotation's own face ratio, None to compute it.
    """

    box_xyxy: Box
    landmarks_5: Float64
    ratio: float | None = None


class UnusableImageError(Exception):
    """An image that cannot be judged; `code` is a FailureCode or a word of this package."""

    def __init__(self, code: str, detail: str) -> None:
        self.code, self.detail = code, detail
        super().__init__(f"{code}: {detail}")


@dataclass(frozen=True, kw_only=True, slots=True)
class EvaluationImage:
    """One image and what is annotated in it."""

    image_id: str
    load: Callable[[], Image]
    """Decodes the image, (H, W, 3) uint8 RGB; raises UnusableImageError."""
    words: tuple[Word, ...] = ()
    """Words with a transcription."""
    text_boxes: tuple[Word, ...] = ()
    """Places of text without a transcription, from a detector."""
    faces: tuple[Face, ...] = ()
    problems: tuple[tuple[str, str], ...] = ()
    """(code, detail) of annotations of this image that cannot be used."""


@dataclass(frozen=True, kw_only=True, slots=True)
class EvaluationSet:
    """Images to judge, and what their source had to leave out."""

    images: tuple[EvaluationImage, ...]
    sources: tuple[str, ...]
    """The files that were read."""
    rows_not_ok: int = 0
    """Manifest rows without an image; they are not part of the set."""
    has_transcriptions: bool = False
    """Whether the source can hold words at all: TokBench text files, or manifests with the column
    `input_words`."""


def from_manifests(sources: Sequence[Path], images_root: Path | None = None) -> EvaluationSet:
    """The images of dataset folders or manifest files.

    Faces are the valid `face_regions`; words come from the column `input_words` where it exists.

    Raises:
        UsageError, ManifestError: as `training.data.manifest.ManifestDataset`.
    """
    dataset = ManifestDataset(sources, images_root=images_root)
    found: list[EvaluationImage] = []
    has_words = False
    for path in dataset.manifests:
        table = manifest.read_manifest(path)
        ok = table.filter(pc.equal(table["status"].cast(pa.string()), Status.OK.value))
        has_words = has_words or WORDS_COLUMN in ok.column_names
        found.extend(_manifest_images(ok, dataset, first=len(found)))
    return EvaluationSet(
        images=tuple(found),
        sources=tuple(str(path) for path in dataset.manifests),
        rows_not_ok=dataset.counts.not_ok,
        has_transcriptions=has_words,
    )


def from_tokbench(annotations: Path, folder: Path) -> EvaluationSet:
    """The images of one of TokBench's annotation files, text or face.

    Text: a list of {file_name, height, width, annotations: [{bbox | polygon, rec, ratio}]}.
    Face: a list of {image_name, img_height, img_width, faces: [{kps, box, ratio}]}.

    Args:
        annotations: the JSON file.
        folder: the folder that its file names are relative to.

    Raises:
        UsageError: the file or the folder is missing, or an entry is not of either form.
    """
    if not folder.is_dir():
        raise UsageError(f"{folder} is not a folder; name the folder with TokBench's images")
    entries = _read_json(annotations)
    if not isinstance(entries, list) or not entries:
        raise UsageError(f"{annotations} is not a list of images; give a TokBench annotation file")
    found = []
    for index, entry in enumerate(entries):
        try:
            found.append(_tokbench_image(entry, folder))
        except (KeyError, TypeError, ValueError, IndexError) as error:
            raise UsageError(
                f"{annotations}: image {index} is not of TokBench's form "
                f"({type(error).__name__}: {error}); give its text_*.json or face_meta.json"
            ) from error
    return EvaluationSet(
        images=tuple(found),
        sources=(str(annotations),),
        has_transcriptions=any("annotations" in entry for entry in entries),
    )


def joined(sets: Sequence[EvaluationSet]) -> EvaluationSet:
    """All images of several sets, in order."""
    return EvaluationSet(
        images=tuple(image for one in sets for image in one.images),
        sources=tuple(source for one in sets for source in one.sources),
        rows_not_ok=sum(one.rows_not_ok for one in sets),
        has_transcriptions=any(one.has_transcriptions for one in sets),
    )


def parse_words(text: str) -> tuple[Word, ...]:
    """The words of one `input_words` value.

    Raises:
        ValueError: not a JSON list of {"box_xyxy": 4 finite numbers, "text": string}.
    """
    entries = json.loads(text)
    if not isinstance(entries, list):
        raise ValueError(f"a JSON list was expected, found {type(entries).__name__}")
    return tuple(_word(entry) for entry in entries)


def _word(entry: Any) -> Word:
    if not isinstance(entry, Mapping) or not isinstance(entry.get("text"), str):
        raise ValueError('each word needs "box_xyxy" and "text"')
    return Word(_box(entry.get("box_xyxy")), entry["text"])


def _manifest_images(
    ok: pa.Table, dataset: ManifestDataset, first: int
) -> Iterator[EvaluationImage]:
    """The images of one manifest's ok rows; row i is image `first` + i of the dataset."""
    text, faces = flatten_text(ok), flatten_faces(ok)
    words_column = _words_column(ok)
    for row in range(ok.num_rows):
        words, problems = _words_or_problem(words_column[row])
        boxes = text.regions.box_xyxy[text.offsets[row] : text.offsets[row + 1]]
        here = slice(faces.offsets[row], faces.offsets[row + 1])
        valid = np.flatnonzero(faces.regions.is_valid[here]) + here.start
        yield EvaluationImage(
            image_id=dataset.image_id(first + row),
            load=partial(_load_row, dataset, first + row),
            words=words,
            text_boxes=tuple(Word(_box(box.tolist()), None) for box in boxes),
            faces=tuple(
                Face(
                    _box(faces.regions.box_xyxy[i].tolist()),
                    faces.regions.landmarks_5[i].astype(np.float64),
                )
                for i in valid
            ),
            problems=problems,
        )


def _words_column(table: pa.Table) -> list[str | None]:
    if WORDS_COLUMN not in table.column_names:
        return [None] * table.num_rows
    column = table[WORDS_COLUMN]
    if not (pa.types.is_string(column.type) or pa.types.is_large_string(column.type)):
        raise UsageError(
            f"column {WORDS_COLUMN} has type {column.type}; it must hold JSON strings, a list of "
            '{"box_xyxy": [x0, y0, x1, y1], "text": "..."}'
        )
    values: list[str | None] = column.to_pylist()
    return values


def _words_or_problem(
    value: str | None,
) -> tuple[tuple[Word, ...], tuple[tuple[str, str], ...]]:
    if value is None:
        return (), ()
    try:
        return parse_words(value), ()
    except ValueError as error:
        return (), (("words_invalid", f"{WORDS_COLUMN}: {error}"),)


def _load_row(dataset: ManifestDataset, index: int) -> Image:
    try:
        return dataset.read(index).image
    except BadImageError as error:
        raise UnusableImageError("image_unreadable", error.reason) from error


def _tokbench_image(entry: Mapping[str, Any], folder: Path) -> EvaluationImage:
    is_text = "annotations" in entry
    name = str(entry["file_name"] if is_text else entry["image_name"])
    width = int(entry["width"] if is_text else entry["img_width"])
    height = int(entry["height"] if is_text else entry["img_height"])
    return EvaluationImage(
        image_id=name,
        load=partial(_load_file, folder / name, (width, height)),
        words=tuple(_tokbench_word(word) for word in entry["annotations"]) if is_text else (),
        faces=() if is_text else tuple(_tokbench_face(face) for face in entry["faces"]),
    )


def _tokbench_word(word: Mapping[str, Any]) -> Word:
    place = np.asarray(word["bbox"] if "bbox" in word else word["polygon"], np.float64)
    ratio = float(word["ratio"]) if "ratio" in word else None
    if place.shape == (4,) and "bbox" in word:
        return Word(_box(place.tolist()), str(word["rec"]), None, ratio)
    points = place.reshape(-1, 2)
    hull = _box([*points.min(axis=0), *points.max(axis=0)])
    quad = tuple((float(x), float(y)) for x, y in points) if len(points) == 4 else None
    return Word(hull, str(word["rec"]), quad, ratio)


def _tokbench_face(face: Mapping[str, Any]) -> Face:
    landmarks = np.asarray(face["kps"], np.float64).reshape(5, 2)
    ratio = float(face["ratio"]) if "ratio" in face else None
    return Face(_box(face["box"][:4]), landmarks, ratio)


def _load_file(path: Path, expected_size: tuple[int, int]) -> Image:
    try:
        pixels, header = images.decode(path.read_bytes())
    except OSError as error:
        raise UnusableImageError("image_unreadable", f"{path}: {error.strerror}") from error
    except images.ImageDecodeError as error:
        raise UnusableImageError(str(error.code), f"{path}: {error.detail}") from error
    if (header.width, header.height) != expected_size:
        detail = (
            f"{path}: {header.width}x{header.height}, annotated as "
            f"{expected_size[0]}x{expected_size[1]}"
        )
        raise UnusableImageError(str(FailureCode.SHA256_MISMATCH), detail)
    return pixels


def _box(values: Any) -> Box:
    if not isinstance(values, list) or len(values) != 4:
        raise ValueError(f"a box needs four numbers x0, y0, x1, y1, found {values}")
    x0, y0, x1, y1 = (float(value) for value in values)
    if not np.isfinite([x0, y0, x1, y1]).all():
        raise ValueError(f"a box needs finite numbers, found {values}")
    return x0, y0, x1, y1


def _read_json(path: Path) -> Any:
    try:
        return json.loads(path.read_text())
    except OSError as error:
        raise UsageError(f"{path} cannot be read ({error.strerror}); give a JSON file") from error
    except ValueError as error:
        raise UsageError(f"{path} is not JSON ({error}); give a TokBench annotation file") from error
