"""A small manifest table that keeps every rule."""

from __future__ import annotations

import hashlib

import numpy as np
import pyarrow as pa
import pytest

from annotations_schema.geometry import ARCFACE_TEMPLATE_112
from annotations_schema.manifest import table_from_rows
from annotations_schema.provenance import DetectorRecord, Provenance
from annotations_schema.regions import FaceRegions, TextRegions

WIDTH, HEIGHT = 200, 100


@pytest.fixture
def text() -> TextRegions:
    quads = [[[10, 10], [60, 10], [60, 30], [10, 30]], [[5, 50], [25, 45], [27, 55], [7, 60]]]
    return TextRegions.from_quads(quads, [0.9, 0.4], WIDTH, HEIGHT)


@pytest.fixture
def faces() -> FaceRegions:
    landmarks = np.stack([ARCFACE_TEMPLATE_112 * 0.5 + 20, np.ones((5, 2))])
    boxes = [[20, 20, 90, 90], [1, 1, 3, 3]]
    return FaceRegions.from_landmarks(boxes, [0.99, 0.5], landmarks, WIDTH, HEIGHT)


def ok_row(index: int, text: TextRegions | None, faces: FaceRegions | None) -> dict:
    states = [
        "not_run" if regions is None else "found" if len(regions) else "none"
        for regions in (text, faces)
    ]
    return {
        "image_id": hashlib.sha256(str(index).encode()).hexdigest()[:32],
        "source_row": index,
        "source_name": "list.txt",
        "url": f"http://example.test/{index}.jpg",
        "status": "ok",
        "http_status": 200,
        "attempts": 1,
        "elapsed_ms": 12,
        "sha256": hashlib.sha256(b"%d" % index).hexdigest(),
        "phash": 2**64 - 1,
        "format": "jpeg",
        "bytes": 1000,
        "exif_orientation": 6,
        "width": WIDTH,
        "height": HEIGHT,
        "stored_width": HEIGHT,
        "stored_height": WIDTH,
        "shard": "000000",
        "offset": 512,
        "length": 1000,
        "text_state": states[0],
        "face_state": states[1],
        "text_regions": text,
        "face_regions": faces,
    }


def failed_row(index: int) -> dict:
    return {
        "image_id": hashlib.sha256(str(index).encode()).hexdigest()[:32],
        "source_row": index,
        "source_name": "list.txt",
        "status": "failed",
        "stage": "fetch",
        "failure_code": "http_404",
        "attempts": 1,
        "elapsed_ms": 3,
        "text_state": "not_run",
        "face_state": "not_run",
    }


@pytest.fixture
def rows(text, faces) -> list[dict]:
    return [
        {**ok_row(0, text, faces), "input_topic": "signs"},
        ok_row(1, TextRegions.empty(), None),
        failed_row(2),
        ok_row(3, None, FaceRegions.empty()),
    ]


@pytest.fixture
def table(rows) -> pa.Table:
    return table_from_rows(rows, [pa.field("input_topic", pa.string())])


@pytest.fixture
def provenance() -> Provenance:
    detector = DetectorRecord(
        name="ppocr_v6_small",
        library="rapidocr",
        library_version="3.10.0",
        weights_sha256="0" * 64,
        weights_licence="Apache-2.0",
        thresholds={"box": 0.6},
        input_size="long side 960",
    )
    return Provenance(config_sha256="c" * 64, creator="test", text_detector=detector)
