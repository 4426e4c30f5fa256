"""A small finished dataset, made without network and without detectors."""

from __future__ import annotations

import hashlib
import io
import shutil
import tarfile
from collections import Counter
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
from PIL import Image

from annotations_schema.codes import FailureCode, RegionState, Stage, Status
from annotations_schema.geometry import ARCFACE_TEMPLATE_112
from annotations_schema.images import decode, perceptual_hash
from annotations_schema.layout import DatasetLayout, Receipt, output_files, write_receipt
from annotations_schema.manifest import table_from_rows, write_manifest
from annotations_schema.provenance import DetectorRecord, Provenance
from annotations_schema.regions import FaceRegions, TextRegions
from curation.annotate.config import AnnotateConfig
from curation.config import CurateConfig, DatasetConfig
from curation.passes.fetched import fetch_inputs
from curation.plan.plan import PlanConfig
from curation.run import plan_dataset

HOSTILE_CAPTION = (
    "</p><script>alert(1)</script><img src=x onerror=alert(2)>\u202edesrever & \"q\" 'q'"
)
URLS = [
    ("http://a.example/astronaut.png", "An astronaut"),
    ("http://a.example/coffee.png", HOSTILE_CAPTION),
    ("http://b.example/gone.jpg", "It is gone"),
    ("javascript:alert(3)", "No URL of ours"),
    ("http://b.example/nothing.png", "Neither text nor face"),
    ("http://a.example/astronaut.png", "The same again"),
]
SHARD_SIZE = 4


@pytest.fixture(scope="session")
def finished_dataset(
    tmp_path_factory: pytest.TempPathFactory, astronaut: np.ndarray, coffee: np.ndarray
) -> Path:
    """Six rows in two shards: three images, a 404, a bad row and a duplicate; do not change it."""
    folder = tmp_path_factory.mktemp("finished")
    source = folder / "list.csv"
    lines = [f'"{url}","{caption.replace(chr(34), chr(34) * 2)}"' for url, caption in URLS]
    source.write_text("url,caption\n" + "\n".join(lines) + "\n", encoding="utf-8")
    layout = DatasetLayout(folder / "dataset")
    pictures = {
        "astronaut.png": _png(astronaut[::2, ::2]),
        "coffee.png": _png(coffee[::2, ::2]),
        "nothing.png": _png(np.full((40, 60, 3), 128, np.uint8)),
    }
    config = plan_dataset(
        source,
        layout,
        CurateConfig(
            plan=PlanConfig(caption_column="caption", shard_size=SHARD_SIZE),
            annotate=AnnotateConfig(text_detector="none", face_detector="none"),
        ),
    )
    for shard in layout.shards_planned():
        rows = _fetch(layout, config, shard, pictures)
        _annotate(layout, config, shard, rows, pictures)
    return layout.root


@pytest.fixture
def curated(finished_dataset: Path, tmp_path: Path) -> DatasetLayout:
    """A copy of the finished dataset that a test may damage."""
    root = tmp_path / "dataset"
    shutil.copytree(finished_dataset, root)
    return DatasetLayout(root)


def _png(pixels: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG")
    return buffer.getvalue()


def _fetch(
    layout: DatasetLayout, config: DatasetConfig, shard: str, pictures: dict[str, bytes]
) -> list[dict[str, Any]]:
    rows = pq.read_table(str(layout.plan(shard))).to_pylist()
    layout.images(shard).parent.mkdir(exist_ok=True)
    with tarfile.open(layout.images(shard), "w") as tar:
        for row in rows:
            row |= {"attempts": 0, "elapsed_ms": 0}
            row |= {"text_state": RegionState.NOT_RUN, "face_state": RegionState.NOT_RUN}
            if row["status"] == Status.OK:
                _fetch_row(row, tar, shard, pictures)
    return _publish(layout, config, shard, "fetch", rows, [layout.images(shard)])


def _fetch_row(
    row: dict[str, Any], tar: tarfile.TarFile, shard: str, pictures: dict[str, bytes]
) -> None:
    row |= {"attempts": 1, "elapsed_ms": 120, "fetched_at": datetime(2026, 1, 1, tzinfo=UTC)}
    data = pictures.get(row["url"].rpartition("/")[2])
    if data is None:
        code = FailureCode.HTTP_404
        row |= {"status": code.status, "stage": Stage.FETCH, "failure_code": code}
        row |= {"http_status": 404, "failure_detail": "the server answered 404"}
        return
    member = tarfile.TarInfo(f"{row['image_id']}.png")
    member.size = len(data)
    offset = tar.fileobj.tell() + tarfile.BLOCKSIZE  # type: ignore[union-attr]
    tar.addfile(member, io.BytesIO(data))
    _, header = decode(data)
    row |= header._asdict()
    row |= {"http_status": 200, "sha256": hashlib.sha256(data).hexdigest(), "bytes": len(data)}
    row |= {"shard": shard, "offset": offset, "length": len(data)}


def _annotate(
    layout: DatasetLayout,
    config: DatasetConfig,
    shard: str,
    rows: list[dict[str, Any]],
    pictures: dict[str, bytes],
) -> None:
    for row in rows:
        if row["status"] != Status.OK:
            continue
        name = row["url"].rpartition("/")[2]
        image, _ = decode(pictures[name])
        size = (row["width"], row["height"])
        faces = _one_face(*size) if name == "astronaut.png" else FaceRegions.empty()
        text = _two_words(*size) if name == "coffee.png" else TextRegions.empty()
        row |= {"phash": perceptual_hash(image), "text_regions": text, "face_regions": faces}
        row["text_state"] = RegionState.FOUND if len(text) else RegionState.NONE
        row["face_state"] = RegionState.FOUND if len(faces) else RegionState.NONE
    _publish(layout, config, shard, "annotate", rows, [])


def _one_face(width: int, height: int) -> FaceRegions:
    """The astronaut's, about; turned a little so that the fit is not trivial."""
    angle = np.deg2rad(7.0)
    turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    landmarks = 0.4 * (ARCFACE_TEMPLATE_112 - 56) @ turn.T + (112, 60)
    return FaceRegions.from_landmarks([[90, 30, 134, 92]], [0.98], [landmarks], width, height)


def _two_words(width: int, height: int) -> TextRegions:
    quads = [
        [[10, 10], [90, 14], [89, 34], [9, 30]],
        [[20, 50], [60, 50], [60, 62], [20, 62]],
    ]
    return TextRegions.from_quads(quads, [0.9, 0.7], width, height)


def _publish(
    layout: DatasetLayout,
    config: DatasetConfig,
    shard: str,
    stage: str,
    rows: list[dict[str, Any]],
    others: Sequence[Path],
) -> list[dict[str, Any]]:
    detectors = {
        kind: DetectorRecord(
            name=f"a_{kind}_detector",
            library="by-hand",
            library_version="1",
            weights_sha256="f" * 64,
            weights_licence="MIT",
            thresholds={"score": 0.5},
            input_size="as it is",
        )
        for kind in ("text", "face")
    }
    run = detectors if stage == "annotate" else {"text": None, "face": None}
    provenance = Provenance(
        config_sha256=config.stages[stage],
        creator="a test",
        text_detector=run["text"],
        face_detector=run["face"],
    )
    path = layout.fetch(shard) if stage == "fetch" else layout.annotations(shard)
    write_manifest(path, table_from_rows(rows), provenance)
    counts = Counter(str(row["status"]) for row in rows)
    counts.update(str(row["failure_code"]) for row in rows if row["failure_code"])
    counts.update({"text_ms": 1500, "face_ms": 500} if stage == "annotate" else {})
    write_receipt(
        layout,
        Receipt(
            stage=stage,
            shard=shard,
            config_sha256=config.stages[stage],
            outputs=output_files(layout, [path, *others]),
            rows=len(rows),
            counts=dict(counts),
            inputs=fetch_inputs(layout, shard) if stage == "annotate" else {},
            elapsed_s=2.0,
            version="1",
        ),
    )
    return rows
