"""EasyOCR's english recogniser (VGG, two BiLSTM, CTC) on given crops; its detector is not loaded.

The loop of `easyocr.Reader.recognize` on a CPU reads one box at a time. Here crops of one padded
width go through the same function of the library together, which gives each crop the input it would
have had alone: EasyOCR pads a crop to a multiple of 64 pixels that depends on that crop only.
"""

from __future__ import annotations

import importlib.metadata
import sys
import warnings
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image as PillowImage

from annotations_schema.errors import UsageError
from training.evaluation.networks import ENGLISH_G2, NetworkRecord, network_record, weights_path

Image = NDArray[np.uint8]

MODEL_HEIGHT_PX = 64
BATCH_SIZE = 64


def load_english_g2(weights: Path | None = None) -> EasyOcrReader:
    """EasyOCR's `english_g2` from the installed package or a path; nothing is downloaded.

    Raises:
        WeightsError: the file is absent or is not EasyOCR's.
        UsageError: the path given is not named english_g2.pth, the only name EasyOCR opens.
    """
    path = weights_path(ENGLISH_G2, weights)
    if path.name != "english_g2.pth":
        raise UsageError(f"{path} is not named english_g2.pth, as EasyOCR needs; rename the file")
    record = network_record(
        ENGLISH_G2,
        weights,
        library="easyocr",
        library_version=importlib.metadata.version("easyocr"),
        is_published_protocol=False,
        note="substitute for TokBench's docTR PARSeq, not comparable with published scores",
    )
    return EasyOcrReader(_open_reader(path.parent), record)


def _open_reader(folder: Path) -> Any:
    import easyocr  # imports OpenCV, which must stay out of `import training`

    search_path = list(sys.path)
    try:
        # quantize=False: dynamic quantisation scales by batch, so a word's reading would depend on
        # its neighbours. Both folders are the weights' own, or EasyOCR makes some in the home.
        return easyocr.Reader(
            ["en"],
            gpu=False,
            model_storage_directory=str(folder),
            user_network_directory=str(folder),
            download_enabled=False,
            detector=False,
            verbose=False,
            quantize=False,
        )
    finally:
        sys.path[:] = search_path  # EasyOCR appends its network folder


class EasyOcrReader:
    """A `TextRecogniser` over an `easyocr.Reader` that was opened without detector."""

    def __init__(self, reader: Any, record: NetworkRecord) -> None:
        self._reader = reader
        self._record = record

    @property
    def record(self) -> NetworkRecord:
        """Which network this is."""
        return self._record

    @property
    def alphabet(self) -> frozenset[str]:
        """The 96 characters of `english_g2`, the space among them."""
        return frozenset(self._reader.character)

    def read(self, crops: Sequence[Image]) -> list[str]:
        """One string per (h, w, 3) uint8 RGB crop; greedy CTC, EasyOCR's own contrast retry."""
        from easyocr.utils import get_image_list

        by_width: dict[int, list[tuple[int, Image]]] = defaultdict(list)
        for index, crop in enumerate(crops):
            height, width = crop.shape[:2]
            box = [[0, width, 0, height]]
            resized, padded_width = get_image_list(box, [], _grey(crop), MODEL_HEIGHT_PX)
            by_width[padded_width].append((index, resized[0][1]))
        texts = [""] * len(crops)
        for padded_width, group in by_width.items():
            for (index, _), text in zip(group, self._read_group(padded_width, group), strict=True):
                texts[index] = text
        return texts

    def _read_group(self, padded_width: int, group: list[tuple[int, Image]]) -> list[str]:
        from easyocr.recognition import get_text

        with warnings.catch_warnings():
            # EasyOCR always asks for pinned memory; torch warns of it on machines without a GPU.
            warnings.filterwarnings("ignore", message=".*pin_memory.*", category=UserWarning)
            answers = get_text(
                self._reader.character,
                MODEL_HEIGHT_PX,
                padded_width,
                self._reader.recognizer,
                self._reader.converter,
                group,
                batch_size=BATCH_SIZE,
                workers=0,
                device="cpu",
            )
        return [text for _, text, _ in answers]


def _grey(crop: Image) -> Image:
    return np.asarray(PillowImage.fromarray(crop).convert("L"))
