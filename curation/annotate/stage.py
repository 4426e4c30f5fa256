"""The annotate stage: a fetched shard becomes its manifest, each image decoded once.

Memory holds one image at a time. A damaged image is a failed row; a detector that cannot process
an image leaves the row ok with the state `failed` for its kind; bytes that are not those of the
fetch table are corruption of the dataset and end the shard.
"""

from __future__ import annotations

import logging
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from hashlib import sha256
from importlib.metadata import version
from pathlib import Path
from typing import Any, NamedTuple, Protocol, TypeVar

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from annotations_schema.codes import RegionState, Stage, Status
from annotations_schema.columns import INPUT_PREFIX, MANIFEST_SCHEMA
from annotations_schema.errors import GeometryError, ManifestError, UsageError
from annotations_schema.images import ImageDecodeError, ImageHeader, decode, perceptual_hash
from annotations_schema.layout import (
    DatasetLayout,
    Receipt,
    output_files,
    read_receipt,
    write_receipt,
)
from annotations_schema.manifest import read_manifest, table_from_rows, write_manifest
from annotations_schema.provenance import Provenance
from annotations_schema.regions import FaceRegions, TextRegions
from curation.annotate.config import AnnotateConfig, result_sha256
from curation.annotate.detectors import load_face_detector, load_text_detector
from curation.annotate.protocols import Detector, FaceDetector, TextDetector

_DISTRIBUTION = "open-insighttok"
_log = logging.getLogger(__name__)

Row = dict[str, Any]
RegionsT_co = TypeVar("RegionsT_co", bound=TextRegions | FaceRegions, covariant=True)


class Tally:
    """What a shard's receipt counts: rows, regions, milliseconds by part."""

    def __init__(self) -> None:
        self.counts: Counter[str] = Counter()
        self._nanoseconds: Counter[str] = Counter()

    @contextmanager
    def timed(self, part: str) -> Iterator[None]:
        """Add the time of the block to `part`."""
        started = time.perf_counter_ns()
        try:
            yield
        finally:
            self._nanoseconds[part] += time.perf_counter_ns() - started

    def as_counts(self) -> dict[str, int]:
        """Counts and times as integers; times end in `_ms`."""
        times = {f"{part}_ms": spent // 1_000_000 for part, spent in self._nanoseconds.items()}
        return {**self.counts, **times}


class Finder(Detector, Protocol[RegionsT_co]):
    """A detector of either kind."""

    def detect(self, image: NDArray[np.uint8]) -> RegionsT_co:
        """Regions of an image (H, W, 3) uint8 RGB."""


class Loaded(NamedTuple):
    """What `open` takes: the detectors, None where a kind is not run."""

    text: TextDetector | None
    face: FaceDetector | None


class AnnotateStage:
    """Annotates one shard at a time. Cheap and picklable until opened.

    Args:
        root: the dataset's folder.
        config: detectors and limits.

    Raises:
        WeightsError: a weights file named in the configuration is absent.
    """

    name = "annotate"

    def __init__(self, root: Path, config: AnnotateConfig) -> None:
        self.root = root
        self.config = config
        self.config_sha256 = result_sha256(config)
        self._loaded: Loaded | None = None

    def open(self) -> None:
        """Load the detectors, once in each worker process.

        Raises:
            UsageError: an absent library or an unavailable provider.
            WeightsError: absent or wrong weights.
        """
        self._loaded = Loaded(
            load_text_detector(self.config.text_detector, self.config.text_options),
            load_face_detector(self.config.face_detector, self.config.face_options),
        )

    def close(self) -> None:
        """Let the detectors go."""
        self._loaded = None

    def run(self, shard: str) -> Receipt:
        """Annotate a shard from scratch: the manifest, then the receipt.

        Raises:
            UsageError: the stage is not open, or the shard is not fetched.
            ManifestError: the shard's images are not those of its fetch table.
        """
        if self._loaded is None:
            raise UsageError("AnnotateStage.run before open(); a stage is opened once per process")
        started = time.perf_counter()
        layout = DatasetLayout(self.root)
        fetched = read_fetched(layout, shard)
        tally = Tally()
        rows = list(self._annotated_rows(layout, shard, fetched, self._loaded, tally))
        path = layout.annotations(shard)
        _remove_leftovers(path)
        write_manifest(path, _with_user_columns(rows, fetched), self._provenance(self._loaded))
        receipt = Receipt(
            stage=self.name,
            shard=shard,
            config_sha256=self.config_sha256,
            outputs=output_files(layout, [path]),
            rows=len(rows),
            counts=tally.as_counts(),
            elapsed_s=time.perf_counter() - started,
            version=version(_DISTRIBUTION),
        )
        write_receipt(layout, receipt)
        return receipt

    def _annotated_rows(
        self, layout: DatasetLayout, shard: str, fetched: pa.Table, loaded: Loaded, tally: Tally
    ) -> Iterator[Row]:
        dropped_before = _num_dropped(loaded)
        tar = layout.images(shard)
        for number, row in enumerate(fetched.select(MANIFEST_SCHEMA.names).to_pylist()):
            if row["status"] == Status.OK:
                data = read_image(tar, shard, number, row)
                row |= self._annotate(data, loaded, tally)
            tally.counts.update(str(row[name]) for name in ("status", "failure_code") if row[name])
            yield row
        tally.counts["regions_dropped"] = _num_dropped(loaded) - dropped_before

    def _annotate(self, data: bytes, loaded: Loaded, tally: Tally) -> Row:
        """The columns that annotation changes in an ok row."""
        try:
            with tally.timed("decode"):
                image, header = decode(data, self.config.limits)
                facts = image_facts(image, header)
        except ImageDecodeError as error:
            return {
                "status": error.code.status,
                "stage": Stage.DECODE,
                "failure_code": error.code,
                "failure_detail": error.detail,
            }
        with tally.timed("text"):
            text_state, text = look(loaded.text, image)
        with tally.timed("face"):
            face_state, faces = look(loaded.face, image)
        tally.counts.update([f"text_{text_state}", f"face_{face_state}"])
        tally.counts["text_regions"] += 0 if text is None else len(text)
        tally.counts["face_regions"] += 0 if faces is None else len(faces)
        states = {"text_state": text_state, "face_state": face_state}
        return {**facts, **states, "text_regions": text, "face_regions": faces}

    def _provenance(self, loaded: Loaded) -> Provenance:
        return Provenance(
            config_sha256=self.config_sha256,
            creator=f"{_DISTRIBUTION} {version(_DISTRIBUTION)}",
            text_detector=None if loaded.text is None else loaded.text.record,
            face_detector=None if loaded.face is None else loaded.face.record,
        )


def read_fetched(layout: DatasetLayout, shard: str) -> pa.Table:
    """The fetched rows of a shard.

    Raises:
        UsageError: fetch has not published the shard.
    """
    receipt = read_receipt(layout, "fetch", shard)
    if receipt is None or receipt.set_aside is not None:
        why = "has no fetch receipt" if receipt is None else "was set aside by fetch"
        raise UsageError(
            f"shard {shard!r} of {layout.root} {why}; "
            f"run `insight-curate fetch {layout.root}` first"
        )
    return read_manifest(layout.fetch(shard))


def read_image(tar: Path, shard: str, number: int, row: Mapping[str, Any]) -> bytes:
    """The bytes of an ok row, as its address says, compared with its hash.

    Raises:
        ManifestError: the tar file is absent, or holds other bytes there.
    """
    where = f"shard {shard}, row {number} ({row['image_id']})"
    if row["offset"] is None or row["length"] is None:
        raise ManifestError(f"{where}: status ok without offset and length; fetch the shard again")
    try:
        with tar.open("rb") as file:
            file.seek(row["offset"])
            data = file.read(row["length"])
    except OSError as error:
        raise ManifestError(
            f"{where}: {tar} cannot be read ({error.strerror}); fetch the shard again"
        ) from error
    found = sha256(data).hexdigest()
    if found != row["sha256"]:
        raise ManifestError(
            f"{where}: {len(data)} bytes at offset {row['offset']} of {tar} have sha256 "
            f"{found[:16]}..., the fetch table says {str(row['sha256'])[:16]}...; "
            "fetch the shard again"
        )
    return data


def image_facts(image: NDArray[np.uint8], header: ImageHeader) -> Row:
    """The columns that follow from the decoded image alone."""
    return {**header._asdict(), "phash": perceptual_hash(image)}


def look(
    detector: Finder[RegionsT_co] | None, image: NDArray[np.uint8]
) -> tuple[RegionState, RegionsT_co | None]:
    """What a detector finds in an image: a state, and regions where it looked."""
    if detector is None:
        return RegionState.NOT_RUN, None
    expected: tuple[type[Exception], ...] = (GeometryError, *detector.errors)
    try:
        regions = detector.detect(image)
    except expected as error:
        height, width = image.shape[:2]
        _log.warning("%s failed on %d x %d: %s", detector.record.name, width, height, error)
        return RegionState.FAILED, None
    return (RegionState.FOUND if len(regions) else RegionState.NONE), regions


def _num_dropped(loaded: Loaded) -> int:
    return sum(detector.num_dropped for detector in loaded if detector is not None)


def _with_user_columns(rows: Sequence[Row], fetched: pa.Table) -> pa.Table:
    # User columns are carried over as Arrow columns: no type of theirs passes through Python.
    table = table_from_rows(rows)
    for field in fetched.schema:
        if field.name.startswith(INPUT_PREFIX):
            table = table.append_column(field, fetched.column(field.name))
    return table


def _remove_leftovers(path: Path) -> None:
    """Remove the temporary files of a killed run of this shard."""
    for temporary in path.parent.glob(f".{path.name}.*.tmp"):
        temporary.unlink(missing_ok=True)
