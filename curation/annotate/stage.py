"""The annotate stage: a fetched shard becomes its manifest, each image decoded once.

A damaged image is a failed row; a detector that cannot process an image leaves the row ok with the
state `failed` for its kind; bytes that are not those of the fetch table are corruption of the
dataset and end the shard.
"""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Iterator, Sequence
from importlib.metadata import version
from typing import Any

import cv2
import pyarrow as pa

from annotations_schema.codes import Status
from annotations_schema.columns import INPUT_PREFIX, MANIFEST_SCHEMA
from annotations_schema.errors import UsageError
from annotations_schema.layout import (
    DEFAULT_SET,
    DatasetLayout,
    Receipt,
    write_receipt,
)
from annotations_schema.manifest import table_from_rows, write_manifest
from annotations_schema.provenance import Provenance
from annotations_schema.storage import AnyPath
from curation.annotate.config import AnnotateConfig, result_sha256
from curation.annotate.detectors import load_face_detector, load_text_detector
from curation.annotate.earlier import earlier_columns
from curation.annotate.image_reader import ImageReader
from curation.annotate.looking import Loaded, Row, annotate_images
from curation.annotate.protocols import Provider
from curation.annotate.tally import Tally
from curation.passes.fetched import fetch_inputs, fetched_rows

_DISTRIBUTION = "open-insighttok"


class AnnotateStage:
    """Annotates one shard at a time. Cheap and picklable until opened.

    Args:
        root: the dataset's folder.
        config: detectors, rules and limits.
        annotation_set: which of the dataset's annotation sets is written.

    Raises:
        WeightsError: a weights file named in the configuration is absent.
    """

    name = "annotate"

    def __init__(
        self, root: AnyPath, config: AnnotateConfig, annotation_set: str = DEFAULT_SET
    ) -> None:
        self.root = root
        self.config = config
        self.annotation_set = annotation_set
        self.config_sha256 = result_sha256(config)
        self._loaded: Loaded | None = None

    def open(self) -> None:
        """Load the detectors, once in each worker process.

        Raises:
            UsageError: an absent library or an unavailable provider.
            WeightsError: absent or wrong weights.
        """
        # OpenCV would take every core for each resize, of each worker; this is process-wide.
        cv2.setNumThreads(1)
        self._loaded = Loaded(
            load_text_detector(self.config.text_detector, self.config.text_options),
            load_face_detector(self.config.face_detector, self.config.face_options),
        )

    def close(self) -> None:
        """Let the detectors go."""
        self._loaded = None

    def run(self, shard: str) -> Receipt:
        """Write the manifest of a shard, then the receipt.

        Images that the same detectors annotated before under this configuration keep their columns.

        Raises:
            UsageError: the stage is not open, or the shard is not fetched.
            ManifestError: the shard's images are not those of its fetch table.
        """
        if self._loaded is None:
            raise UsageError("AnnotateStage.run before open(); a stage is opened once per process")
        started_at, started = time.time(), time.perf_counter()
        layout = DatasetLayout(self.root, self.annotation_set)
        inputs = fetch_inputs(layout, shard)
        fetched = fetched_rows(layout, shard)
        tally = Tally()
        rows = self._annotated_rows(layout, shard, fetched, self._loaded, tally)
        path = layout.annotations(shard)
        _remove_leftovers(path)
        table = _with_user_columns(rows, fetched)
        written = write_manifest(path, table, self._provenance(self._loaded))
        receipt = Receipt(
            stage=self.name,
            shard=shard,
            config_sha256=self.config_sha256,
            outputs={layout.relative(path): written},
            rows=len(rows),
            counts=tally.as_counts(),
            inputs=inputs,
            started_at=started_at,
            elapsed_s=time.perf_counter() - started,
            worker=f"{socket.gethostname()}:{os.getpid()}",
            version=version(_DISTRIBUTION),
        )
        write_receipt(layout, receipt)
        return receipt

    def _annotated_rows(
        self, layout: DatasetLayout, shard: str, fetched: pa.Table, loaded: Loaded, tally: Tally
    ) -> list[Row]:
        rows: list[Row] = fetched.select(MANIFEST_SCHEMA.names).to_pylist()
        stored = [number for number, row in enumerate(rows) if row["status"] == Status.OK]
        known = earlier_columns(
            layout, shard, self._provenance(loaded), [rows[number] for number in stored]
        )
        fresh = []
        for number in stored:
            columns = known.get((rows[number]["image_id"], rows[number]["sha256"]))
            if columns is None:
                fresh.append(number)
            else:
                rows[number] |= columns
        with ImageReader(layout) as reader:
            images = (reader.read(shard, number, rows[number]) for number in fresh)
            for number, columns in zip(fresh, self._annotate(images, loaded, tally), strict=True):
                rows[number] |= columns
        _count(rows, tally)
        tally.counts["reused"] = len(stored) - len(fresh)
        return rows

    def _annotate(
        self, images: Iterator[bytes], loaded: Loaded, tally: Tally
    ) -> Iterator[dict[str, Any]]:
        return annotate_images(
            images,
            loaded,
            self.config.limits,
            tally,
            threads=self.config.threads,
            batch_size=self.config.batch_size,
        )

    def _provenance(self, loaded: Loaded) -> Provenance:
        return Provenance(
            config_sha256=self.config_sha256,
            creator=f"{_DISTRIBUTION} {version(_DISTRIBUTION)}",
            text_detector=None if loaded.text is None else loaded.text.record,
            face_detector=None if loaded.face is None else loaded.face.record,
        )


def check_detectors(root: AnyPath, config: AnnotateConfig) -> None:
    """Load the detectors here, so that absent or wrong weights are known before any work.

    Raises:
        UsageError, WeightsError: as `AnnotateStage.open`.
    """
    if config.provider is not Provider.CPU:
        return  # the machine that plans need not have the accelerator of the workers
    stage = AnnotateStage(root, config)
    stage.open()
    stage.close()


def _count(rows: Sequence[Row], tally: Tally) -> None:
    for row in rows:
        tally.counts.update(str(row[name]) for name in ("status", "failure_code") if row[name])
        if row["status"] != Status.OK:
            continue
        for kind in ("text", "face"):
            regions = row[f"{kind}_regions"]
            tally.counts[f"{kind}_{row[f'{kind}_state']}"] += 1
            tally.counts[f"{kind}_regions"] += 0 if regions is None else len(regions)


def _with_user_columns(rows: Sequence[Row], fetched: pa.Table) -> pa.Table:
    # User columns are carried over as Arrow columns: no type of theirs passes through Python.
    table = table_from_rows(rows)
    for field in fetched.schema:
        if field.name.startswith(INPUT_PREFIX):
            table = table.append_column(field, fetched.column(field.name))
    return table


def _remove_leftovers(path: AnyPath) -> None:
    """Remove the temporary files of a killed run of this shard."""
    for temporary in path.parent.glob(f".{path.name}.*.tmp"):
        temporary.unlink(missing_ok=True)
