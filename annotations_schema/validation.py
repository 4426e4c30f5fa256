"""The rules a manifest must keep, as a list of problems that name row, column, value and rule."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from annotations_schema.codes import (
    REASON_MAX_CHARACTERS,
    DropReason,
    FailureCode,
    Flag,
    RegionState,
    Stage,
    Status,
)
from annotations_schema.columns import INPUT_PREFIX, MANIFEST_SCHEMA, SUBSET_FIELDS
from annotations_schema.errors import GeometryError
from annotations_schema.geometry import box_areas
from annotations_schema.region_columns import flatten_faces, flatten_text

OK_COLUMNS = (
    "sha256",
    "phash",
    "format",
    "bytes",
    "exif_orientation",
    "width",
    "height",
    "stored_width",
    "stored_height",
    "shard",
    "offset",
    "length",
)
"""Columns that are not null in an annotated row of status ok."""

TABLE_ROW = -1
"""Row of a problem that concerns the whole table."""


class Problem(NamedTuple):
    """One broken rule."""

    row: int
    column: str
    value: str
    rule: str

    def __str__(self) -> str:
        where = "table" if self.row == TABLE_ROW else f"row {self.row}"
        return f"{where}, column {self.column}: {self.value} ({self.rule})"


def validate(table: pa.Table) -> list[Problem]:
    """All problems of a table; an empty list means that it keeps the specification.

    Problems of the schema hide those of the values: the latter need the columns.
    """
    problems = list(_schema_problems(table.schema))
    if problems:
        return problems
    for rule in (_identity, _codes, _facts, _states, _text, _faces, _dropped):
        problems.extend(rule(table))
    return sorted(problems)


def _schema_problems(schema: pa.Schema) -> Iterator[Problem]:
    for field in MANIFEST_SCHEMA:
        if field.name not in schema.names:
            yield Problem(TABLE_ROW, field.name, "absent", "every core column is there")
        elif not schema.field(field.name).type.equals(field.type):
            found = str(schema.field(field.name).type)
            yield Problem(TABLE_ROW, field.name, found, f"the Arrow type is {field.type}")
    subset = {field.name: field for field in SUBSET_FIELDS}
    known = {*MANIFEST_SCHEMA.names, *subset}
    for name in schema.names:
        if name in subset and not schema.field(name).type.equals(subset[name].type):
            found = str(schema.field(name).type)
            yield Problem(TABLE_ROW, name, found, f"the Arrow type is {subset[name].type}")
        if name not in known and not name.startswith(INPUT_PREFIX):
            yield Problem(TABLE_ROW, name, "unknown", f"user columns begin with {INPUT_PREFIX}")


def _identity(table: pa.Table) -> Iterator[Problem]:
    ids = table.column("image_id")
    is_hex = pc.match_substring_regex(ids, "^[0-9a-f]{32}$")
    yield from _flag(table, "image_id", ~_bools(is_hex), "32 lower-case hex digits")
    seen: set[str] = set()
    for row, image_id in enumerate(ids.to_pylist()):
        if image_id in seen:
            yield Problem(row, "image_id", repr(image_id), "unique in the manifest")
        seen.add(image_id)
    for name in ("sha256", "sha256_expected", "sha256_received"):
        bad = ~_bools(pc.match_substring_regex(table.column(name), "^[0-9a-f]{64}$"), null=True)
        yield from _flag(table, name, bad, "64 lower-case hex digits")
    for field in MANIFEST_SCHEMA:
        if not field.nullable and table.column(field.name).null_count:
            yield from _flag(table, field.name, _is_null(table, field.name), "not null")


def _codes(table: pa.Table) -> Iterator[Problem]:
    vocabularies = {
        "status": Status,
        "stage": Stage,
        "failure_code": FailureCode,
        "text_state": RegionState,
        "face_state": RegionState,
    }
    for name, vocabulary in vocabularies.items():
        known = pc.is_in(_strings(table, name), pa.array([m.value for m in vocabulary]))
        bad = ~_bools(known) & ~_is_null(table, name)
        yield from _flag(table, name, bad, f"one of {', '.join(vocabulary)}")
    for row, flags in enumerate(table.column("flags").to_pylist()):
        if not {*(flags or ())} <= {*Flag}:
            yield Problem(row, "flags", repr(flags), f"of {', '.join(Flag)}")
    is_ok = _is_ok(table)
    for name in ("stage", "failure_code"):
        empty = _is_null(table, name)
        yield from _flag(table, name, is_ok & ~empty, "null where status is ok")
        yield from _flag(table, name, ~is_ok & empty, "given where status is not ok")
    too_long = pc.greater(pc.utf8_length(table.column("failure_detail")), REASON_MAX_CHARACTERS)
    rule = f"at most {REASON_MAX_CHARACTERS} characters"
    yield from _flag(table, "failure_detail", _bools(too_long), rule)


def _facts(table: pa.Table) -> Iterator[Problem]:
    is_ok = _is_ok(table)
    decoded = is_ok & (_state(table, "text") | _state(table, "face"))
    for name in OK_COLUMNS:
        needed = decoded if name == "phash" else is_ok
        yield from _flag(table, name, needed & _is_null(table, name), "given where status is ok")
    for name in ("width", "height", "stored_width", "stored_height", "length", "bytes"):
        bad = _bools(pc.less_equal(table.column(name), 0))
        yield from _flag(table, name, bad, "greater than 0")
    orientation = _numbers(table, "exif_orientation")
    bad = (orientation < 0) | (orientation > 8)
    yield from _flag(table, "exif_orientation", bad, "between 0 and 8")
    turned = orientation >= 5
    for name, straight, across in (
        ("width", "stored_width", "stored_height"),
        ("height", "stored_height", "stored_width"),
    ):
        expected = np.where(turned, _numbers(table, across), _numbers(table, straight))
        found = _numbers(table, name)
        differs = (found != expected) & ~np.isnan(found) & ~np.isnan(expected)
        yield from _flag(table, name, differs, "the stored size, turned by exif_orientation")


def _states(table: pa.Table) -> Iterator[Problem]:
    for kind, lists in (("text", "text_regions"), ("face", "face_regions")):
        states = np.array(_strings(table, f"{kind}_state").to_pylist(), dtype=object)
        lengths = pc.list_value_length(table.column(lists)).to_numpy().astype(np.float64)
        unknown = np.isin(states, [RegionState.NOT_RUN, RegionState.FAILED])
        for mask, rule in (
            (unknown & ~np.isnan(lengths), "null where the state is not_run or failed"),
            ((states == RegionState.NONE) & ~(lengths == 0), "empty where the state is none"),
            ((states == RegionState.FOUND) & ~(lengths > 0), "not empty where the state is found"),
        ):
            yield from _flag(table, lists, mask, rule)


def _text(table: pa.Table) -> Iterator[Problem]:
    try:
        flat = flatten_text(table)
    except GeometryError as error:
        yield Problem(TABLE_ROW, "text_regions", str(error), "finite and in range")
        return
    rows = np.repeat(np.arange(len(table)), np.diff(flat.offsets))
    regions = flat.regions
    yield from _boxes(table, "text_regions", rows, regions.box_xyxy, regions.area_fraction)
    hulls = np.concatenate([regions.quad.min(axis=1), regions.quad.max(axis=1)], axis=1)
    for i in np.flatnonzero(np.abs(hulls - regions.box_xyxy).max(axis=1, initial=0) > 1e-3):
        yield Problem(int(rows[i]), "text_regions", str(regions.box_xyxy[i]), "box is quad's hull")


def _faces(table: pa.Table) -> Iterator[Problem]:
    try:
        flat = flatten_faces(table)
    except GeometryError as error:
        yield Problem(TABLE_ROW, "face_regions", str(error), "finite and in range")
        return
    rows = np.repeat(np.arange(len(table)), np.diff(flat.offsets))
    regions = flat.regions
    yield from _boxes(table, "face_regions", rows, regions.box_xyxy, regions.area_fraction)


def _dropped(table: pa.Table) -> Iterator[Problem]:
    name = "dropped_regions"
    column = table.column(name).combine_chunks()
    lengths = pc.list_value_length(column).to_numpy(zero_copy_only=False).astype(np.float64)
    looked = np.zeros(len(table), np.bool_)
    for kind in ("text", "face"):
        states = np.array(_strings(table, f"{kind}_state").to_pylist(), dtype=object)
        looked |= np.isin(states, [RegionState.NONE, RegionState.FOUND])
    yield from _flag(table, name, ~looked & ~np.isnan(lengths), "null where no detector looked")
    rows = np.repeat(np.arange(len(table)), np.nan_to_num(lengths).astype(np.int64))
    reasons = {reason.value for reason in DropReason}
    for row, region in zip(rows.tolist(), column.flatten().to_pylist(), strict=True):
        for key, is_good, rule in (
            ("kind", region["kind"] in ("text", "face"), "text or face"),
            ("reason", region["reason"] in reasons, f"one of {', '.join(DropReason)}"),
            ("score", 0 <= region["score"] <= 1, "a score lies in [0, 1]"),
            ("box_xyxy", bool(np.isfinite(region["box_xyxy"]).all()), "finite"),
        ):
            if not is_good:
                yield Problem(row, name, repr(region[key]), rule)


def _boxes(
    table: pa.Table,
    column: str,
    rows: NDArray[np.int64],
    boxes: NDArray[np.float32],
    fractions: NDArray[np.float32],
) -> Iterator[Problem]:
    width, height = _numbers(table, "width")[rows], _numbers(table, "height")[rows]
    limit = np.stack([width, height, width, height], axis=1)
    outside = ((boxes < 0) | (boxes > limit + 1e-3)).any(axis=1)
    for i in np.flatnonzero(outside):
        yield Problem(int(rows[i]), column, str(boxes[i]), "boxes lie in the image")
    expected = box_areas(boxes) / np.maximum(width * height, 1.0)
    for i in np.flatnonzero(np.abs(expected - fractions) > 1e-5):
        yield Problem(int(rows[i]), column, str(fractions[i]), "area_fraction is area / image area")


def _flag(table: pa.Table, column: str, mask: NDArray[np.bool_], rule: str) -> Iterator[Problem]:
    for row in np.flatnonzero(mask):
        yield Problem(int(row), column, repr(table.column(column)[int(row)].as_py())[:80], rule)


def _strings(table: pa.Table, name: str) -> pa.ChunkedArray:
    return table.column(name).cast(pa.string())


def _is_ok(table: pa.Table) -> NDArray[np.bool_]:
    return _bools(pc.equal(_strings(table, "status"), Status.OK.value))


def _state(table: pa.Table, kind: str) -> NDArray[np.bool_]:
    is_run = pc.not_equal(_strings(table, f"{kind}_state"), RegionState.NOT_RUN.value)
    return _bools(is_run)


def _is_null(table: pa.Table, name: str) -> NDArray[np.bool_]:
    return _bools(table.column(name).is_null())


def _bools(column: Any, *, null: bool = False) -> NDArray[np.bool_]:
    return np.asarray(pc.fill_null(column, null).to_numpy(), dtype=np.bool_)


def _numbers(table: pa.Table, name: str) -> NDArray[np.float64]:
    values: NDArray[np.float64] = table.column(name).cast(pa.float64()).to_numpy()
    return values
