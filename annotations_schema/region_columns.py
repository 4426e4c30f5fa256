"""Regions between struct-of-arrays and Arrow lists, both ways, no Python object per region."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple, cast

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from annotations_schema.columns import FACE_REGION, MANIFEST_SCHEMA, TEXT_REGION
from annotations_schema.regions import FaceRegions, TextRegions


class FlatText(NamedTuple):
    """All text regions of a table: those of row r are offsets[r] to offsets[r + 1]."""

    offsets: NDArray[np.int64]
    regions: TextRegions


class FlatFaces(NamedTuple):
    """All face regions of a table: those of row r are offsets[r] to offsets[r + 1]."""

    offsets: NDArray[np.int64]
    regions: FaceRegions


def text_column(rows: Sequence[TextRegions | None]) -> pa.Array:
    """The Arrow column `text_regions`; None becomes null (unknown)."""
    present = [r for r in rows if r is not None]
    structs = _structs(
        TEXT_REGION,
        box_xyxy=_fixed([r.box_xyxy for r in present], 4, np.float32),
        quad=_fixed([r.quad.reshape(-1, 8) for r in present], 8, np.float32),
        score=_flat([r.score for r in present], np.float32),
        area_fraction=_flat([r.area_fraction for r in present], np.float32),
    )
    return _lists("text_regions", rows, structs)


def face_column(rows: Sequence[FaceRegions | None]) -> pa.Array:
    """The Arrow column `face_regions`; None becomes null (unknown)."""
    present = [r for r in rows if r is not None]
    matrices = _joined([r.crop_from_image.reshape(-1, 6) for r in present], 6, np.float64)
    no_fit = np.isnan(matrices).any(axis=1)
    residuals = np.concatenate([np.zeros(0, np.float32), *(r.residual_px for r in present)])
    structs = _structs(
        FACE_REGION,
        box_xyxy=_fixed([r.box_xyxy for r in present], 4, np.float32),
        score=_flat([r.score for r in present], np.float32),
        landmarks_5=_fixed([r.landmarks_5.reshape(-1, 10) for r in present], 10, np.float32),
        crop_from_image=_fixed_array(np.where(no_fit[:, None], 0.0, matrices), no_fit),
        residual_px=pa.array(residuals, mask=no_fit | np.isnan(residuals)),
        is_valid=pa.array(np.concatenate([np.zeros(0, np.bool_), *(r.is_valid for r in present)])),
        area_fraction=_flat([r.area_fraction for r in present], np.float32),
    )
    return _lists("face_regions", rows, structs)


def flatten_text(table: pa.Table) -> FlatText:
    """All text regions of a table, concatenated; a null list counts as no region."""
    offsets, structs = _flatten(table.column("text_regions"))
    return FlatText(
        offsets,
        TextRegions(
            box_xyxy=_rows(structs, "box_xyxy", 4),
            quad=_rows(structs, "quad", 8).reshape(-1, 4, 2),
            score=_values(structs, "score"),
            area_fraction=_values(structs, "area_fraction"),
        ),
    )


def flatten_faces(table: pa.Table) -> FlatFaces:
    """All face regions of a table, concatenated; a null list counts as no region."""
    offsets, structs = _flatten(table.column("face_regions"))
    matrices = structs.field("crop_from_image")
    return FlatFaces(
        offsets,
        FaceRegions(
            box_xyxy=_rows(structs, "box_xyxy", 4),
            score=_values(structs, "score"),
            landmarks_5=_rows(structs, "landmarks_5", 10).reshape(-1, 5, 2),
            crop_from_image=_rows_or_nan(matrices, 6).reshape(-1, 2, 3),
            residual_px=_values_or_nan(structs, "residual_px"),
            is_valid=_values(structs, "is_valid"),
            area_fraction=_values(structs, "area_fraction"),
        ),
    )


def text_regions_at(table: pa.Table, row: int) -> TextRegions | None:
    """The text regions of one row, None where they are unknown."""
    one = table.select(["text_regions"]).slice(row, 1)
    return None if one.column(0).null_count else flatten_text(one).regions


def face_regions_at(table: pa.Table, row: int) -> FaceRegions | None:
    """The face regions of one row, None where they are unknown."""
    one = table.select(["face_regions"]).slice(row, 1)
    return None if one.column(0).null_count else flatten_faces(one).regions


def _joined(parts: Sequence[NDArray], width: int, dtype: type) -> NDArray:  # type: ignore[type-arg]
    return np.concatenate([np.zeros((0, width), dtype), *parts])


def _fixed(parts: Sequence[NDArray], width: int, dtype: type) -> pa.Array:  # type: ignore[type-arg]
    return _fixed_array(_joined(parts, width, dtype))


def _fixed_array(rows: NDArray, is_null: NDArray[np.bool_] | None = None) -> pa.Array:  # type: ignore[type-arg]
    width = rows.shape[1]
    values = pa.array(np.ascontiguousarray(rows).ravel())
    kind = pa.list_(pa.field("element", values.type, nullable=False), width)
    mask = None if is_null is None else pa.array(is_null)
    return pa.FixedSizeListArray.from_arrays(values, type=kind, mask=mask)


def _flat(parts: Sequence[NDArray], dtype: type) -> pa.Array:  # type: ignore[type-arg]
    return pa.array(np.concatenate([np.zeros(0, dtype), *parts]))


def _structs(kind: pa.StructType, **columns: pa.Array) -> pa.Array:
    fields = [kind.field(i) for i in range(kind.num_fields)]
    return pa.StructArray.from_arrays([columns[f.name] for f in fields], fields=fields)


def _lists(
    name: str, rows: Sequence[TextRegions | None] | Sequence[FaceRegions | None], structs: pa.Array
) -> pa.Array:
    lengths = [0 if r is None else len(r) for r in rows]
    offsets = pa.array(np.concatenate([[0], np.cumsum(lengths)]).astype(np.int32))
    is_null = pa.array([r is None for r in rows], pa.bool_())
    kind = MANIFEST_SCHEMA.field(name).type
    return pa.ListArray.from_arrays(offsets, structs, type=kind, mask=is_null)


def _flatten(column: pa.ChunkedArray) -> tuple[NDArray[np.int64], pa.StructArray]:
    lists = column.combine_chunks()
    if isinstance(lists, pa.ChunkedArray):  # pyarrow keeps an empty column chunked
        lists = pa.concat_arrays(lists.chunks) if lists.num_chunks else pa.array([], lists.type)
    lengths = pc.fill_null(pc.list_value_length(lists), 0).to_numpy(zero_copy_only=False)
    offsets = np.concatenate([[0], np.cumsum(lengths, dtype=np.int64)])
    return offsets, cast(pa.StructArray, lists.flatten())


def _values(structs: pa.StructArray, name: str) -> NDArray:  # type: ignore[type-arg]
    values: NDArray = structs.field(name).to_numpy(zero_copy_only=False)  # type: ignore[type-arg]
    return values


def _values_or_nan(structs: pa.StructArray, name: str) -> NDArray:  # type: ignore[type-arg]
    column = structs.field(name)
    filled = pc.fill_null(column, pa.scalar(float("nan"), column.type))
    values: NDArray = filled.to_numpy(zero_copy_only=False)  # type: ignore[type-arg]
    return values


def _rows(structs: pa.StructArray, name: str, width: int) -> NDArray:  # type: ignore[type-arg]
    values: NDArray = structs.field(name).flatten().to_numpy(zero_copy_only=False)  # type: ignore[type-arg]
    return values.reshape(-1, width)


def _rows_or_nan(column: pa.Array, width: int) -> NDArray[np.float64]:
    rows = np.full((len(column), width), np.nan)
    has_value = column.is_valid().to_numpy(zero_copy_only=False)
    rows[has_value] = column.drop_null().flatten().to_numpy(zero_copy_only=False).reshape(-1, width)
    return rows
