"""Folders of images without annotations: fidelity alone can be measured on them."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from annotations_schema import images
from annotations_schema.errors import UsageError
from training.evaluation.annotations import (
    EvaluationImage,
    EvaluationSet,
    ProblemCode,
    UnusableImageError,
)

Image = NDArray[np.uint8]

SUFFIXES = frozenset(
    {".avif", ".bmp", ".gif", ".ico", ".jp2", ".jpeg", ".jpg", ".pgm", ".png", ".ppm", ".tif"}
    | {".tiff", ".webp"}
)
"""Endings of files that are images, in lower case; other files are not looked at."""


def from_folders(folders: Sequence[Path]) -> EvaluationSet:
    """The image files of folders and of all folders below them, sorted by path.

    An image's id is its path from the parent of the folder that was named. Hidden files are left
    out; a file with an image's ending that is no image becomes a counted row when it is decoded.

    Raises:
        UsageError: a folder is not there or holds no image file.
    """
    found = [(folder, path) for folder in folders for path in _image_files(folder)]
    return EvaluationSet(
        images=tuple(
            EvaluationImage(
                image_id=f"{folder.resolve().name}/{path.relative_to(folder).as_posix()}",
                load=partial(load_file, path),
            )
            for folder, path in found
        ),
        sources=tuple(str(folder) for folder in folders),
    )


def load_file(path: Path) -> Image:
    """The pixels of an image file, (H, W, 3) uint8 RGB.

    Raises:
        UnusableImageError: it cannot be read or decoded.
    """
    try:
        return images.decode(path.read_bytes())[0]
    except OSError as error:
        raise UnusableImageError(
            ProblemCode.IMAGE_UNREADABLE, f"{path}: {error.strerror}"
        ) from error
    except images.ImageDecodeError as error:
        raise UnusableImageError(error.code, f"{path}: {error.detail}") from error


def _image_files(folder: Path) -> list[Path]:
    if not folder.is_dir():
        raise UsageError(f"--images {folder} is no folder; name a folder of images")
    files = sorted(
        path
        for path in folder.rglob("*")
        if path.suffix.lower() in SUFFIXES
        and not any(part.startswith(".") for part in path.relative_to(folder).parts)
        and path.is_file()
    )
    if not files:
        raise UsageError(
            f"--images {folder} holds no image file ({', '.join(sorted(SUFFIXES))}); name a folder "
            "of images"
        )
    return files
