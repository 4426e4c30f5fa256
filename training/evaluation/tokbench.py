"""TokBench's own annotation files as images to judge."""

from __future__ import annotations

import json
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from annotations_schema import images
from annotations_schema.errors import UsageError
from training.evaluation.annotations import (
    EvaluationImage,
    EvaluationSet,
    Face,
    ProblemCode,
    UnusableImageError,
    Word,
    checked_box,
)

Image = NDArray[np.uint8]


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
        except (KeyError, TypeError, ValueError, IndexError, OverflowError) as error:
            raise UsageError(
                f"{annotations}: image {index} is not of TokBench's form "
                f"({type(error).__name__}: {error}); give its text_*.json or face_meta.json"
            ) from error
    return EvaluationSet(
        images=tuple(found),
        sources=(str(annotations),),
        has_transcriptions=any("annotations" in entry for entry in entries),
    )


def _tokbench_image(entry: Mapping[str, Any], folder: Path) -> EvaluationImage:
    is_text = "annotations" in entry
    name = str(entry["file_name"] if is_text else entry["image_name"])
    if "\0" in name:
        raise ValueError("a file name holds a zero byte")
    width = int(entry["width"] if is_text else entry["img_width"])
    height = int(entry["height"] if is_text else entry["img_height"])
    return EvaluationImage(
        image_id=name,
        load=partial(_load_file, folder / name, (width, height)),
        words=tuple(_tokbench_word(word) for word in entry["annotations"]) if is_text else (),
        faces=() if is_text else tuple(_tokbench_face(face) for face in entry["faces"]),
    )


def _tokbench_word(word: Mapping[str, Any]) -> Word:
    text = word["rec"]
    if not isinstance(text, str):
        raise TypeError(f"rec must be text, found {text}")
    place = np.asarray(word["bbox"] if "bbox" in word else word["polygon"], np.float64)
    ratio = _ratio(word)
    if place.shape == (4,) and "bbox" in word:
        return Word(checked_box(place.tolist()), text, None, ratio)
    points = place.reshape(-1, 2)
    if len(points) < 3:
        raise ValueError(f"a polygon needs three points, found {len(points)}")
    hull = checked_box([*points.min(axis=0), *points.max(axis=0)])
    quad = tuple((float(x), float(y)) for x, y in points) if len(points) == 4 else None
    return Word(hull, text, quad, ratio)


def _tokbench_face(face: Mapping[str, Any]) -> Face:
    landmarks = np.asarray(face["kps"], np.float64).reshape(5, 2)
    return Face(checked_box(face["box"][:4]), landmarks, _ratio(face))


def _ratio(region: Mapping[str, Any]) -> float | None:
    if "ratio" not in region:
        return None
    ratio = float(region["ratio"])
    if not np.isfinite(ratio):
        raise ValueError(f"a ratio must be finite, found {ratio}")
    return ratio


def _load_file(path: Path, expected_size: tuple[int, int]) -> Image:
    try:
        pixels, header = images.decode(path.read_bytes())
    except OSError as error:
        raise UnusableImageError(
            ProblemCode.IMAGE_UNREADABLE, f"{path}: {error.strerror}"
        ) from error
    except images.ImageDecodeError as error:
        raise UnusableImageError(error.code, f"{path}: {error.detail}") from error
    if (header.width, header.height) != expected_size:
        detail = (
            f"{path}: {header.width}x{header.height}, annotated as "
            f"{expected_size[0]}x{expected_size[1]}"
        )
        raise UnusableImageError(ProblemCode.SIZE_MISMATCH, detail)
    return pixels


def _read_json(path: Path) -> Any:
    try:
        return json.loads(path.read_text())
    except OSError as error:
        raise UsageError(f"{path} cannot be read ({error.strerror}); give a JSON file") from error
    except ValueError as error:
        raise UsageError(
            f"{path} is not JSON ({error}); give a TokBench annotation file"
        ) from error
