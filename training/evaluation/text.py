"""TokBench's text metric: read annotated words in the reconstruction, compare with the truth.

T-ACC is exact, case-sensitive equality; T-NED is 1 - Levenshtein / longer length, higher is better.
The recogniser is given the annotated place of each word, so no detector takes part.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray
from rapidfuzz.distance import Levenshtein

from annotations_schema.errors import UsageError
from annotations_schema.geometry import warp_affine
from training.evaluation.doctr_reader import download_parseq, load_parseq
from training.evaluation.easyocr_reader import load_english_g2
from training.evaluation.networks import NetworkRecord

Image = NDArray[np.uint8]


class TextRecogniser(Protocol):
    """Reads the one word in each crop."""

    @property
    def record(self) -> NetworkRecord:
        """Which network this is."""
        ...

    @property
    def alphabet(self) -> frozenset[str]:
        """The characters it can write; a reference with others cannot be scored."""
        ...

    def read(self, crops: Sequence[Image]) -> list[str]:
        """One string per (h, w, 3) uint8 RGB crop, h and w at least 1."""
        ...


TEXT_RECOGNISERS: Mapping[str, Callable[[Path | None], TextRecogniser]] = {
    "easyocr_english_g2": load_english_g2,
    "doctr_parseq": load_parseq,
}
"""Name -> loader(path of the weights, None for the installed ones)."""

DOWNLOADS: Mapping[str, Callable[[], Path]] = {"doctr_parseq": download_parseq}
"""Name -> the library's own download of the weights, for those that no package holds."""


class WordScore(NamedTuple):
    """What was read at one word: T-ACC is `is_exact`, T-NED is `similarity` in [0, 1]."""

    read: str
    is_exact: bool
    similarity: float


def load_text_recogniser(
    name: str, weights: Path | None = None, *, download: bool = False
) -> TextRecogniser:
    """The recogniser of that name.

    Args:
        name: one of `TEXT_RECOGNISERS`.
        weights: the file, where it is not an installed package's.
        download: without a path, let the library fetch its weights.

    Raises:
        UsageError: no such name, or nothing to download for it.
        WeightsError: its weights are absent, are not the recorded file, or cannot be fetched.
    """
    if name not in TEXT_RECOGNISERS:
        known = ", ".join(TEXT_RECOGNISERS)
        raise UsageError(f"text recogniser '{name}' does not exist; choose one of: {known}, none")
    if download and name not in DOWNLOADS:
        raise UsageError(
            f"text recogniser {name} has nothing to download; leave out --text-download, or choose "
            f"{', '.join(DOWNLOADS)}"
        )
    if download and weights is None:
        weights = DOWNLOADS[name]()
    return TEXT_RECOGNISERS[name](weights)


def crop_word(
    image: Image, box_xyxy: Sequence[float], quad: Sequence[Sequence[float]] | None = None
) -> Image | None:
    """The pixels a recogniser sees, (h, w, 3) uint8; None where nothing of the box is left.

    A box is cut as `image[y0:y1, x0:x1]` with coordinates truncated to integers and no margin; a
    quad (4 corners clockwise from the text's top left) is turned upright (TokBench, through docTR's
    extract_crops and extract_rcrops). Boxes are cut to the image first; what a quad covers outside
    is black.
    """
    height, width = image.shape[:2]
    if quad is not None:
        corners = np.trunc(np.asarray(quad, np.float64))
        if (corners.max(axis=0) <= 0).any() or (corners.min(axis=0) >= (width, height)).any():
            return None
        return _upright(image, corners)
    x0, y0, x1, y1 = (int(value) for value in box_xyxy)
    crop = image[max(y0, 0) : min(max(y1, 0), height), max(x0, 0) : min(max(x1, 0), width)]
    return crop if crop.size else None


def _upright(image: Image, quad: NDArray[np.float64]) -> Image | None:
    """The quad's parallelogram (corners 0, 1, 2) turned upright at its own size, bilinear."""
    across, down = quad[1] - quad[0], quad[2] - quad[1]
    width, height = np.linalg.norm(across), np.linalg.norm(down)
    if int(width) < 1 or int(height) < 1:
        return None
    # Corners land on the centres of the first and last pixels, as in docTR.
    target = np.array([[0.0, 0.0], [width - 1, 0.0], [width - 1, height - 1]])
    source = np.column_stack([quad[:3], np.ones(3)])
    if abs(np.linalg.det(source)) < 1.0 or min(width, height) <= 1.0:
        return None
    matrix = np.linalg.solve(source, target).T
    return warp_affine(image, matrix, (int(height), int(width)))


def character_ratio(
    box_xyxy: Sequence[float], num_characters: int, image_size: tuple[int, int]
) -> float:
    """max(w, h) / characters / max(image side): how large one character is in its image.

    Args:
        box_xyxy: pixels.
        num_characters: of the reference, at least 1.
        image_size: (width, height), pixels.
    """
    x0, y0, x1, y1 = box_xyxy
    return max(x1 - x0, y1 - y0) / num_characters / max(image_size)


def score_word(reference: str, read: str) -> WordScore:
    """Exactness and 1 - Levenshtein(reference, read) / max(length); two empty strings are equal."""
    longest = max(len(reference), len(read))
    distance = Levenshtein.distance(reference, read)
    similarity = 1.0 - distance / longest if longest else 1.0
    return WordScore(read, reference == read, similarity)
