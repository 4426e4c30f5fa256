"""The rules of `verify` over the rows of one manifest: transforms, summaries, states, facts.

Each rule yields `RowFinding`s; the schema's own validation comes first and these go beyond it.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from annotations_schema.codes import RegionState, Status
from annotations_schema.manifest import text_heights_px
from annotations_schema.provenance import Provenance
from annotations_schema.region_columns import FlatFaces, FlatText, flatten_faces, flatten_text
from annotations_schema.regions import FaceRegions

TRANSFORM_TOLERANCE = 1e-6
SUMMARY_TOLERANCE = 1e-5
# Annotate adds to a fetched row; these it hands on as they are.
_HANDED_ON = (
    *("image_id", "source_row", "source_name", "url", "caption", "license"),
    *("sha256_expected", "sha256", "http_status", "attempts", "elapsed_ms", "fetched_at"),
    *("shard", "offset", "length", "bytes"),
    *("history", "optout_rule", "sha256_received", "received_width", "received_height", "flags"),
)
# These as well, where fetch brought no image: annotate gives a verdict on images only.
_VERDICT = ("status", "stage", "failure_code", "failure_detail")


class RowFinding(NamedTuple):
    """A broken rule; `row` is None where it concerns the whole table."""

    row: int | None
    column: str
    rule: str
    found: str


def check_faces(table: pa.Table) -> Iterator[RowFinding]:
    """Alignments fitted again from the stored landmarks are those that are stored."""
    flat = flatten_faces(table)
    stored = flat.regions
    again = FaceRegions.from_landmarks(
        stored.box_xyxy, stored.score, stored.landmarks_5, *_no_cut(stored)
    )
    rows = _row_of_region(flat)
    rule = "crop_from_image is the fit of landmarks_5"
    for index in np.flatnonzero(_differs(stored.crop_from_image, again.crop_from_image)):
        found = f"face {_position(rows, index)}: {stored.crop_from_image[index].ravel().tolist()}"
        yield RowFinding(int(rows[index]), "face_regions.crop_from_image", rule, found)
    for index in np.flatnonzero(_differs(stored.residual_px, again.residual_px)):
        found = f"face {_position(rows, index)}: {stored.residual_px[index]}"
        rule = "residual_px is that of the fit"
        yield RowFinding(int(rows[index]), "face_regions.residual_px", rule, found)
    for index in np.flatnonzero(stored.is_valid != again.is_valid):
        found = f"face {_position(rows, index)}: {bool(stored.is_valid[index])}"
        rule = "is_valid is the fit's verdict"
        yield RowFinding(int(rows[index]), "face_regions.is_valid", rule, found)


def _no_cut(faces: FaceRegions) -> tuple[int, int]:
    """A size so large that no box is cut: only the alignments are of interest."""
    most = int(np.ceil(faces.box_xyxy.max(initial=1.0))) + 1
    return most, most


def _differs(stored: NDArray[Any], again: NDArray[Any]) -> NDArray[np.bool_]:
    """Per region: whether any number is off by more than 1e-6 of its size, or NaN in one only."""
    close = np.isclose(
        stored.astype(np.float64),
        again.astype(np.float64),
        rtol=TRANSFORM_TOLERANCE,
        atol=TRANSFORM_TOLERANCE,
        equal_nan=True,
    )
    differs: NDArray[np.bool_] = np.logical_not(close.all(axis=tuple(range(1, close.ndim))))
    return differs


def _row_of_region(flat: FlatText | FlatFaces) -> NDArray[np.int64]:
    return np.repeat(np.arange(len(flat.offsets) - 1), np.diff(flat.offsets))


def _position(rows: NDArray[np.int64], index: np.intp) -> int:
    """Number of a region within its row."""
    return int(index - np.searchsorted(rows, rows[index]))


def check_summaries(table: pa.Table) -> Iterator[RowFinding]:
    """The summary columns computed again from the regions are those that are stored."""
    for name, expected in summaries(table).items():
        found = table.column(name).cast(pa.float64()).to_numpy()
        same = np.isclose(
            found, expected, rtol=SUMMARY_TOLERANCE, atol=SUMMARY_TOLERANCE, equal_nan=True
        )
        for number in np.flatnonzero(~same):
            rule = f"{name} follows from the regions"
            yield RowFinding(
                int(number), name, rule, f"{found[number]:g}, expected {expected[number]:g}"
            )


def summaries(table: pa.Table) -> dict[str, NDArray[np.float64]]:
    """The summary columns (rows,) float64, NaN where the regions are unknown.

    Whole columns at once: row by row this would take longer than hashing the images.
    """
    text, faces = flatten_text(table), flatten_faces(table)
    sides = faces.regions.box_xyxy[:, 2:] - faces.regions.box_xyxy[:, :2]
    of_text, of_faces = _PerRow(table, "text_regions", text), _PerRow(table, "face_regions", faces)
    return {
        "num_text": of_text.sum(np.ones(len(text.regions))),
        "text_area_fraction": np.minimum(of_text.sum(text.regions.area_fraction), 1.0),
        "max_text_score": of_text.max(text.regions.score),
        "max_text_height_px": of_text.max(text_heights_px(text.regions)),
        "num_faces": of_faces.sum(np.ones(len(faces.regions))),
        "face_area_fraction": np.minimum(of_faces.sum(faces.regions.area_fraction), 1.0),
        "max_face_score": of_faces.max(faces.regions.score),
        "max_face_side_px": of_faces.max(sides.max(axis=1, initial=0.0)),
    }


class _PerRow:
    """Sums and maxima over the regions of each row; NaN where a row's list is null."""

    def __init__(self, table: pa.Table, column: str, flat: FlatText | FlatFaces) -> None:
        self.rows = _row_of_region(flat)
        self.num_rows = len(table)
        self.is_unknown = table.column(column).is_null().to_numpy()

    def sum(self, values: NDArray[Any]) -> NDArray[np.float64]:
        return self._known(np.bincount(self.rows, values, self.num_rows))

    def max(self, values: NDArray[Any]) -> NDArray[np.float64]:
        most = np.zeros(self.num_rows)
        np.maximum.at(most, self.rows, values)
        return self._known(most)

    def _known(self, values: NDArray[Any]) -> NDArray[np.float64]:
        return np.where(self.is_unknown, np.nan, values.astype(np.float64))


def check_states(table: pa.Table, provenance: Provenance) -> Iterator[RowFinding]:
    """A detector of the footer looked at every ok row; no other detector looked at any."""
    detectors = {"text": provenance.text_detector, "face": provenance.face_detector}
    is_ok = np.array([status == Status.OK for status in table.column("status").to_pylist()])
    for kind, record in detectors.items():
        name = f"{kind}_state"
        states = np.array(table.column(name).to_pylist(), dtype=object)
        not_run = states == RegionState.NOT_RUN
        if record is None:
            wrong, rule = ~not_run, f"{name} is not_run: the footer names no {kind} detector"
        else:
            wrong = is_ok & not_run
            rule = f"{name} of an ok row says what was found: the footer names a {kind} detector"
        for number in np.flatnonzero(wrong):
            yield RowFinding(int(number), name, rule, str(states[number]))


def _differing(now: pa.ChunkedArray, before: pa.ChunkedArray) -> Iterator[int]:
    """Rows in which two columns differ; equal to the bit is equal, NaN too."""
    if now.equals(before):
        return
    for number in range(len(before)):
        one, other = now.slice(number, 1), before.slice(number, 1)
        # NaN in a column of the user is not equal to itself; its text is.
        if not one.equals(other) and str(one) != str(other):
            yield number


def check_handed_on(table: pa.Table, fetched: pa.Table) -> Iterator[RowFinding]:
    """What fetch wrote of a row stands unchanged in the manifest."""
    names = [
        *(name for name in _HANDED_ON if name in fetched.column_names),
        *(name for name in fetched.column_names if name.startswith("input_")),
    ]
    for name in names:
        if name not in table.column_names:
            yield RowFinding(None, name, "columns of fetch are handed on", "absent")
            continue
        now, before = table.column(name), fetched.column(name)
        for number in _differing(now, before):
            # Texts of Arrow's own: a damaged time may lie outside of what Python can say.
            found = f"{now.slice(number, 1)!s}, fetch wrote {before.slice(number, 1)!s}"
            yield RowFinding(number, name, f"{name} is as fetch wrote it", " ".join(found.split()))
    verdicts = [one.select(list(_VERDICT)).to_pylist() for one in (table, fetched)]
    for number, (judged, row) in enumerate(zip(*verdicts, strict=True)):
        if row["status"] == Status.OK or judged == row:
            continue
        name = next(name for name in _VERDICT if judged[name] != row[name])
        found = f"{judged[name]!r}, fetch wrote {row[name]!r}"
        yield RowFinding(number, name, "a row without an image is as fetch left it", found)


def count_regions(table: pa.Table) -> dict[str, int]:
    """Stored images, text regions and faces of a table, for the list of what was checked."""
    total = {"images": len(table) - table.column("offset").null_count}
    for label, name in (("text_regions", "num_text"), ("faces", "num_faces")):
        total[label] = sum(count or 0 for count in table.column(name).to_pylist())
    return total
