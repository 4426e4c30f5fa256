"""docTR's PARSeq, the recogniser of TokBench, on given crops.

As in TokBench the model is called directly: crops keep their aspect and are padded right and
bottom to 32 x 128, and wide crops are not split.
"""

from __future__ import annotations

import importlib.metadata
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from annotations_schema.errors import WeightsError
from training.evaluation.networks import (
    PARSEQ,
    PARSEQ_SHA256,
    NetworkRecord,
    library_download,
    network_record,
    published,
    weights_path,
)

Image = NDArray[np.uint8]

BATCH_SIZE = 64


def load_parseq(weights: Path | None = None) -> DoctrReader:
    """PARSeq with docTR's weights, given by path; other weights than the published are named so.

    Raises:
        WeightsError: no path was given, or the file does not hold PARSeq's parameters.
    """
    path = weights_path(PARSEQ, weights)
    from doctr.models import recognition  # imports OpenCV, which must stay out of `import training`

    model = recognition.parseq(pretrained=False)
    try:
        model.from_pretrained(str(path))
    except (RuntimeError, ValueError, KeyError) as error:
        first_line = str(error).splitlines()[0]
        raise WeightsError(
            f"{path} does not hold docTR's parseq parameters: {first_line}"
        ) from error
    version = importlib.metadata.version("python-doctr")
    record = network_record(
        PARSEQ, path, library="doctr", library_version=version, is_published_protocol=True
    )
    return DoctrReader(model, published(record, PARSEQ_SHA256))


def download_parseq() -> Path:
    """The published file in docTR's cache, fetched where it is not there.

    The same function and address as docTR's `parseq(pretrained=True)`; it checks the file against
    the hash in its name.

    Raises:
        WeightsError: it cannot be fetched.
    """
    from doctr.models.recognition.parseq.pytorch import default_cfgs
    from doctr.utils.data import download_from_url

    with library_download(PARSEQ, "--text-weights"):
        return Path(download_from_url(default_cfgs["parseq"]["url"], cache_subdir="models"))


class DoctrReader:
    """A `TextRecogniser` over a docTR recognition model."""

    def __init__(self, model: Any, record: NetworkRecord) -> None:
        from doctr.models.preprocessor import PreProcessor
        from doctr.models.recognition.predictor import RecognitionPredictor

        self._record = record
        self._alphabet = frozenset(model.cfg["vocab"])
        pre_processor = PreProcessor(
            model.cfg["input_shape"][-2:],
            batch_size=BATCH_SIZE,
            mean=model.cfg["mean"],
            std=model.cfg["std"],
            preserve_aspect_ratio=True,
            symmetric_pad=False,
        )
        self._predictor = RecognitionPredictor(pre_processor, model, split_wide_crops=False)

    @property
    def record(self) -> NetworkRecord:
        """Which network this is."""
        return self._record

    @property
    def alphabet(self) -> frozenset[str]:
        """docTR's `french` vocabulary."""
        return self._alphabet

    def read(self, crops: Sequence[Image]) -> list[str]:
        """One string per (h, w, 3) uint8 RGB crop; greedy decoding."""
        if not crops:
            return []
        return [text for text, _ in self._predictor(list(crops))]
