"""What is to be judged: images with words and faces, here from manifests.

Coordinates are those of the manifest format: boxes and quads in edges, landmarks in pixel centres,
in the frame of the stored image with EXIF orientation applied.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from annotations_schema import manifest
from annotations_schema.codes import Status
from annotations_schema.errors import InsightTokError, UsageError
from annotations_schema.region_columns import flatten_faces, flatten_text
from training.data.manifest import BadImageError, ManifestDataset

Image = NDArray[np.uint8]
Float64 = NDArray[np.float64]
Box = tuple[float, float, float, float]

WORDS_COLUMN = "input_words"
"""User column with transcriptions: a JSON list of {"box_xyxy": [x0, y0, x1, y1], "text": "..."}."""


class ProblemCode(StrEnum):
    """Why something annotated is in no score; an image may also bring a FailureCode."""

    IMAGE_UNREADABLE = "image_unreadable"
    SIZE_MISMATCH = "size_mismatch"
    WORDS_INVALID = "words_invalid"
    WORD_EMPTY = "word_empty"
    WORD_OUTSIDE_ALPHABET = "word_outside_alphabet"
    WORD_OUTSIDE_IMAGE = "word_outside_image"
    WORD_UNREADABLE_IN_ORIGINAL = "word_unreadable_in_original"
    WORD_IN_UNUSABLE_IMAGE = "word_in_unusable_image"
    FACE_NOT_ALIGNABLE = "face_not_alignable"
    FACE_OUTSIDE_IMAGE = "face_outside_image"
    FACE_IN_UNUSABLE_IMAGE = "face_in_unusable_image"


class Problem(NamedTuple):
    """Something that was asked for and is in no score."""

    image_id: str
    code: str
    detail: str


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
    is_valid: whether the annotation itself calls the landmarks usable.
    """

    box_xyxy: Box
    landmarks_5: Float64
    ratio: float | None = None
    is_valid: bool = True


class UnusableImageError(InsightTokError):
    """An image that cannot be judged; `code` is a FailureCode or a ProblemCode."""

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
    problems: tuple[Problem, ...] = ()
    """Annotations of this image that cannot be used."""


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

    Faces are the `face_regions`, words come from the column `input_words` where it exists.

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
        ValueError, TypeError: not a JSON list of {"box_xyxy": 4 numbers, "text": string}.
    """
    entries = json.loads(text)
    if not isinstance(entries, list):
        raise ValueError(f"a JSON list was expected, found {type(entries).__name__}")
    return tuple(_word(entry) for entry in entries)


def _word(entry: Any) -> Word:
    if not isinstance(entry, Mapping) or not isinstance(entry.get("text"), str):
        raise ValueError('each word needs "box_xyxy" and "text"')
    return Word(checked_box(entry.get("box_xyxy")), entry["text"])


def _manifest_images(
    ok: pa.Table, dataset: ManifestDataset, first: int
) -> Iterator[EvaluationImage]:
    """The images of one manifest's ok rows; row i is image `first` + i of the dataset."""
    text, faces = flatten_text(ok), flatten_faces(ok)
    words_column = _words_column(ok)
    for row in range(ok.num_rows):
        image_id = dataset.image_id(first + row)
        words, problems = _words_or_problem(words_column[row], image_id)
        boxes = text.regions.box_xyxy[text.offsets[row] : text.offsets[row + 1]]
        here = range(int(faces.offsets[row]), int(faces.offsets[row + 1]))
        yield EvaluationImage(
            image_id=image_id,
            load=partial(_load_row, dataset, first + row),
            words=words,
            text_boxes=tuple(Word(checked_box(box.tolist()), None) for box in boxes),
            faces=tuple(
                Face(
                    checked_box(faces.regions.box_xyxy[i].tolist()),
                    faces.regions.landmarks_5[i].astype(np.float64),
                    is_valid=bool(faces.regions.is_valid[i]),
                )
                for i in here
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
    value: str | None, image_id: str
) -> tuple[tuple[Word, ...], tuple[Problem, ...]]:
    if value is None:
        return (), ()
    try:
        return parse_words(value), ()
    except (ValueError, TypeError) as error:
        return (), (Problem(image_id, ProblemCode.WORDS_INVALID, f"{WORDS_COLUMN}: {error}"),)


def _load_row(dataset: ManifestDataset, index: int) -> Image:
    try:
        return dataset.read(index).image
    except BadImageError as error:
        raise UnusableImageError(ProblemCode.IMAGE_UNREADABLE, error.reason) from error


def checked_box(values: Any) -> Box:
    """A box of a list of four finite numbers.

    Raises:
        ValueError: it is something else.
    """
    if not isinstance(values, list) or len(values) != 4:
        raise ValueError(f"a box needs four numbers x0, y0, x1, y1, found {values}")
    x0, y0, x1, y1 = (float(value) for value in values)
    if not np.isfinite([x0, y0, x1, y1]).all():
        raise ValueError(f"a box needs finite numbers, found {values}")
    return x0, y0, x1, y1
