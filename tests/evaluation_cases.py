"""What the evaluation tests share: rendered words, annotated portraits, judges that load once."""

from __future__ import annotations

import functools
import json
from collections.abc import Mapping, Sequence
from pathlib import Path

import matplotlib
import numpy as np
import pyarrow as pa
from PIL import Image, ImageDraw, ImageFilter, ImageFont

from annotations_schema import DatasetLayout, read_manifest, read_provenance, write_manifest
from training.evaluation.dlib_net import DlibNet, load_dlib_resnet
from training.evaluation.easyocr_reader import EasyOcrReader, load_english_g2

FONT = Path(matplotlib.get_data_path()) / "fonts" / "ttf" / "DejaVuSans.ttf"

# Looked up in the pictures: eyes, nose, mouth corners, from the image's left.
ASTRONAUT_LANDMARKS = np.array([[204, 100], [247, 103], [224, 129], [206, 140], [244, 141]], float)
HOPPER_LANDMARKS = np.array([[219, 189], [303, 187], [259, 246], [231, 273], [298, 272]], float)


@functools.cache
def english_g2() -> EasyOcrReader:
    """EasyOCR's recogniser, loaded once for all tests."""
    return load_english_g2()


@functools.cache
def dlib_resnet() -> DlibNet:
    """dlib's face net, loaded once for all tests."""
    return load_dlib_resnet()


def render_word(text: str, size_px: int = 28, margin_px: int = 8) -> np.ndarray:
    """A word in black on white, (h, w, 3) uint8."""
    font = ImageFont.truetype(str(FONT), size_px)
    x0, y0, x1, y1 = (int(v) for v in font.getbbox(text))
    picture = Image.new("RGB", (x1 - x0 + 2 * margin_px, y1 - y0 + 2 * margin_px), "white")
    ImageDraw.Draw(picture).text((margin_px - x0, margin_px - y0), text, fill="black", font=font)
    return np.asarray(picture)


def blurred(image: np.ndarray, sigma: float) -> np.ndarray:
    """Gaussian blur."""
    return np.asarray(Image.fromarray(image).filter(ImageFilter.GaussianBlur(sigma)))


def edit_distance(a: str, b: str) -> int:
    """Levenshtein distance by the textbook table."""
    row = list(range(len(b) + 1))
    for i, x in enumerate(a, start=1):
        previous, row[0] = row[0], i
        for j, y in enumerate(b, start=1):
            previous, row[j] = row[j], min(row[j] + 1, row[j - 1] + 1, previous + (x != y))
    return row[-1]


def page_of_words(
    placed: Mapping[str, tuple[int, int, int]], width: int = 480, height: int = 320
) -> tuple[np.ndarray, list[dict[str, object]]]:
    """A white page with words at (x, y, font size), and the words with their boxes."""
    page = Image.new("RGB", (width, height), "white")
    draw = ImageDraw.Draw(page)
    words: list[dict[str, object]] = []
    for text, (x, y, size) in placed.items():
        font = ImageFont.truetype(str(FONT), size)
        draw.text((x, y), text, fill="black", font=font)
        x0, y0, x1, y1 = draw.textbbox((x, y), text, font=font)
        words.append({"box_xyxy": [x0 - 3, y0 - 3, x1 + 3, y1 + 3], "text": text})
    return np.asarray(page), words


def add_words_column(root: Path, values: Sequence[object], name: str = "input_words") -> None:
    """Give the first shard of a dataset a user column; values that are no strings become JSON."""
    path = DatasetLayout(root).annotations("000000")
    table, provenance = read_manifest(path), read_provenance(path)
    texts = [v if isinstance(v, str) or v is None else json.dumps(v) for v in values]
    write_manifest(path, table.append_column(name, pa.array(texts, pa.string())), provenance)
